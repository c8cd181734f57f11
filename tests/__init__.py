"""The test suite: a simulated network, an oracle, and the tests that run the daemon on them."""
