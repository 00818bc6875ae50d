"""An asyncio loop in a thread of its own, for links and relays beside blocking code."""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
import threading
import time
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_END_TIMEOUT_S = 10.0
_LOOK_S = 0.1


class Background:
    """Runs coroutines elsewhere and waits for them; what it has entered it exits in the end.

    `precise`: timers fire within microseconds instead of milliseconds, for up to 1,000 open files
    (select takes its timeout in microseconds, epoll in milliseconds).
    """

    def __init__(self, *, precise: bool = False) -> None:
        selector = selectors.SelectSelector() if precise else None
        self._loop = asyncio.SelectorEventLoop(selector) if precise else asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.run(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_END_TIMEOUT_S)
            self._loop.close()

    def run(
        self,
        coroutine: Coroutine[Any, Any, T],
        timeout_s: float = _END_TIMEOUT_S,
        stop: threading.Event | None = None,
    ) -> T:
        """What the coroutine returns or raises; it is cancelled soon after `stop` is set.

        Raises:
            concurrent.futures.TimeoutError, concurrent.futures.CancelledError
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        end = time.monotonic() + timeout_s
        while stop is not None and time.monotonic() < end and not future.done():
            if stop.is_set():
                future.cancel()
            concurrent.futures.wait([future], _LOOK_S)
        return future.result(max(end - time.monotonic(), 0))

    def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter an asynchronous context manager until this object ends."""
        return self.run(self._stack.enter_async_context(context))
