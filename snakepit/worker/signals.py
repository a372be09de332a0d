"""Setting signals in a worker that has just been forked, for as little memory as that can cost.

The functions of `signal` return what was set before as enums; for a handler that is a function they
raise and catch an error on the way. Nobody looks at that, but the pages of code and objects that it
touches would be each worker's own from then on: 40 for one call.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]


def set_default(*numbers: int) -> None:
    """Let the signals do what they do in a new process."""
    for number in numbers:
        _signal.signal(number, _signal.SIG_DFL)


def ignore(number: int) -> None:
    """Let the signal do nothing."""
    _signal.signal(number, _signal.SIG_IGN)


def unblock_all() -> None:
    """Let all signals come through to this thread."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
