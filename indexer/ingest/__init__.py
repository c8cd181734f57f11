"""From the network into the store: the live stream, and the resync of single repos."""
