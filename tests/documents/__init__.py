"""Documents with references that are known: written here, so that what is read can be judged."""
