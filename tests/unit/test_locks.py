"""Locks that must not be lost to an interrupt."""

from __future__ import annotations

import threading

import pytest

from snakepit._core.locks import HoldingLock


def test_an_interrupt_within_a_wait_is_what_is_raised() -> None:
    """Between the step in which a condition lets go of its lock and the one that takes it back."""
    lock = HoldingLock()

    def wait() -> None:
        lock._release_save()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lock:
        wait()
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    assert taken == [True]


def test_a_lock_that_is_not_held_cannot_be_released() -> None:
    with pytest.raises(RuntimeError):
        HoldingLock().release()
