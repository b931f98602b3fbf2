"""What a forked process cannot share with its parent: connections, pools of threads, locks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
            self._made, self._pid = self._make(), os.getpid()
        return self._made
