"""The owner's side of a pool."""
