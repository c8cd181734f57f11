"""The AT Protocol, sans I/O: bytes and text in, verified values or `InvalidUpstream` out."""
