"""The link: a socket by which the owner tells a worker of what that has submitted or asked for."""

from __future__ import annotations

# What a message of the owner's is about.
ANSWER, ERROR, RUN, CANCELLED, LEND = range(5)
