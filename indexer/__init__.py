"""The daemon: everything but its store, its admin surface and its tests."""
