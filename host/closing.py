"""Context managers of two kinds: what is closed in the end, and what is put together of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

_Closing = TypeVar("_Closing", bound="Closing")
_Assembly = TypeVar("_Assembly", bound="Assembly")


class Closing(ABC):
    """A context manager that is closed in the end; some begin when they are entered."""

    @abstractmethod
    def close(self) -> object:
        """Let go of everything. Safe to call twice. What it returns, if anything, is not needed."""

    def __enter__(self: _Closing) -> _Closing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Assembly(Closing):
    """Put together of several context managers, when it is entered.

    A subclass's `_assemble` enters them on `_stack`. They are left in reverse order in the end, or
    at once if one cannot be entered.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    @abstractmethod
    def _assemble(self) -> None:
        """Enter them. What this raises, entering raises."""

    def __enter__(self: _Assembly) -> _Assembly:
        try:
            self._assemble()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        self._stack.close()
