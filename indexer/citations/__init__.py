"""References in documents: found, split, understood, and told apart. Pure: bytes and text in."""
