"""A whole daemon on the devnet under seeded faults: whatever happens, the store ends equal."""
