"""Snakepit measured beside its peers: one file a question, run with ``python -m benches``."""
