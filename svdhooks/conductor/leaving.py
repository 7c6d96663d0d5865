"""What is on its way when a process ends without a word, or forks."""

import atexit
import contextlib
import functools
import os
import sys
import weakref
from typing import Protocol, runtime_checkable


@runtime_checkable
class Leaving(Protocol):
    """Something that is to be closed while the process still runs."""

    def close(self, hurried: bool = False) -> None:
        """Deliver what is there; wait only for a moment if hurried."""
        ...

    def forget(self) -> None:
        """Let go, in a forked process."""
        ...


_OPEN: "weakref.WeakSet[Leaving]" = weakref.WeakSet()


def take_leave(one: Leaving) -> None:
    """Have something closed at the end of this process, and let go of after a fork.

    Args:
        one: What, as long as it lives; closing it again does nothing.
    """
    _OPEN.add(one)
    _register()


@functools.cache
def _register() -> None:
    atexit.register(_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)


def _at_exit() -> None:
    with contextlib.ExitStack() as stack:  # all of them, whatever one raises
        for one in list(_OPEN):
            # hurried where an uncaught exception ends the process
            stack.callback(one.close, hurried=hasattr(sys, "last_type"))


def _in_child() -> None:
    for one in list(_OPEN):
        one.forget()
    _OPEN.clear()
