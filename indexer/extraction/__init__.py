"""Documents read in processes of their own, which may die of them."""
