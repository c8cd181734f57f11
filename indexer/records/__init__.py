"""Record types: what a signed value becomes in typed tables and search."""
