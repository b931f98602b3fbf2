"""What a forked process cannot share with its parent: connections, pools of threads, locks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_making = threading.Lock()


class PerProcess(Generic[T]):
    """Something that is made anew in every process that uses it, at once in the first.

    In a forked process the parent's threads are gone, with what they hold, and its connections
    would be read by two.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made, self._pid = make(), os.getpid()

    def get(self) -> T:
        """This process's own."""
        if self._pid != os.getpid():
            with _making:
                if self._pid != os.getpid():  # no other thread has made it meanwhile
                    self._made, self._pid = self._make(), os.getpid()
        return self._made


def _renew_lock() -> None:
    """Have a lock that no thread of the parent holds."""
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
