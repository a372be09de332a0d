"""Sessions: what callers keep with a pool between calls. On the owner's side, without the engine."""
