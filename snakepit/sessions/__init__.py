"""Sessions: what callers keep with a pool between calls, on the owner's side."""
