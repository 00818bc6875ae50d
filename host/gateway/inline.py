"""The stages in the gateway's own process, in the place of its engines: `--engines 0`.

Theory of operation. A request is computed in the loop, one for each of its rounds, so that frames
are read and answers sent between two; it never crosses to another process and back. What the
processes are for is missing: while one is computed nothing else is done, what crashes takes the
gateway along, and what hangs is never ended. So a bundle is tried in an engine of its own first,
and refused if one inference takes longer than MOST_US.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from host.gateway import engine
from host.gateway.bundles import GatewayError, Served
from host.gateway.engine import Loaded, Trial, now_us
from host.gateway.pool import Done, Engines, Pool, PoolUser
from host.gateway.schedule import Job
from host.link.errors import ErrorCode
from models.errors import TinysplitError

MOST_US: Final = 5_000.0  # That everybody else's frames may wait.

_log = logging.getLogger(__name__)


class _Nobody(PoolUser):
    """Who tries a bundle asks for nothing else."""

    def done(self, job: Job, done: Done) -> None: ...

    def failed(self, job: Job, code: int, text: str) -> None: ...

    def engine_died(self, how: str, running: Job | None, others: list[Job]) -> None: ...

    def room(self) -> None: ...


class Inline(Engines["Inline"]):
    """Computes for `user` in the loop's thread."""

    def __init__(self, user: PoolUser) -> None:
        super().__init__()
        self._user = user
        self._loaded: dict[int, Loaded] = {}
        self._next: asyncio.Handle | None = None  # When a request is computed; None: none waits.

    def start(self) -> None:
        """There is nothing to start."""

    @property
    def pids(self) -> list[int]:
        return []

    @property
    def running(self) -> int:
        return int(self._next is not None)

    def ready(self, served: Served) -> int:
        return int(served.key in self._loaded)

    async def load(self, served: Served) -> Trial:
        """As Engines'; also raises GatewayError if an inference takes too long for this."""
        apart = Pool(1, _Nobody())
        apart.start()
        try:
            trial = await apart.load(served)
        finally:
            await apart.close()
        if trial.invoke_us > MOST_US:
            raise GatewayError(
                f"{served.folder} cannot be served without engines: an inference takes "
                f"{trial.invoke_us / 1000:.1f} ms (measured), while which no head is heard; give "
                "--engines 1 or more"
            )
        piece = await asyncio.to_thread(served.load)
        self._loaded[served.key], trial = await asyncio.to_thread(engine.load, piece)
        return trial

    def unload(self, served: Served) -> None:
        self._loaded.pop(served.key, None)

    def free(self, served: Served) -> Inline | None:
        return self if self._next is None and served.key in self._loaded else None

    def has_room(self) -> bool:
        return self._next is None and bool(self._loaded)

    def submit(self, chosen: Inline, job: Job, now_us: int) -> None:
        loaded = self._loaded[job.head.served.key]
        self._next = asyncio.get_running_loop().call_soon(self._compute, loaded, job)

    def _compute(self, loaded: Loaded, job: Job) -> None:
        self._next = None
        event, started_us = job.event, now_us()
        try:
            lengths = [len(tensor) for tensor in event.tensors]
            data = memoryview(b"".join(event.tensors))
            outputs, decode_us, invoke_us = loaded.run(event.codec, lengths, data)
        except TinysplitError as error:
            self._user.failed(job, engine.code_of(error), str(error))
        except Exception:
            _log.exception("an inference failed")
            self._user.failed(job, ErrorCode.INVOKE_FAILED, "")
        else:
            tensors = [memoryview(output) for output in outputs]
            self._user.done(job, Done(tensors, started_us, decode_us, invoke_us))
        self._user.room()

    def late(self, now_us: int) -> Iterator[Job]:
        """None: what is to be computed is so in the loop's next round."""
        return iter(())

    def end_hung(self, now_us: int, allowed_us: int) -> None:
        """Who would call this hangs, too."""

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
