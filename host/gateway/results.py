"""Where results go beside the heads: Parquet files, a webhook, an MQTT broker.

Theory of operation. A row for every request is put into the bounded queue of each sink and taken
out by the sink's own task, so nothing here can hold up a head: a sink that does not keep up loses
rows, oldest first, and counts them. Parquet comes in pieces, whole files by rename, each on the
disk (fsync) before it has its name. A webhook gets JSON arrays by POST, again after a pause if it
does not take them. At the end each hands over what it has, once more; what is lost then or was
before is said in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import time
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp
import numpy as np

from host.gateway.bundles import GatewayError
from host.gateway.service import Gateway, Outcome
from host.link.errors import code_name
from host.mqtt import access, topics
from host.mqtt.connection import Connection, MqttError
from models.errors import TinysplitError
from partitioner.output import whole_file

MOST_WAITING: Final = 100_000  # Rows of a sink that wait, about 30 MB.
PIECE_ROWS: Final = 50_000
PIECE_S: Final = 60.0
POST_ROWS: Final = 500
POST_S: Final = 1.0
POST_TIMEOUT_S: Final = 10.0
POST_TRIES: Final = 5
MQTT_LOOK_S: Final = 0.2
MQTT_FAREWELL_S: Final = 2.0

_log = logging.getLogger(__name__)
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0

Row = dict[str, Any]
COLUMNS: Final = {
    "time_us": "when the answer was made, microseconds since 1970",
    "gateway": "the gateway's name",
    "head": "the head by its address",
    "transport": "udp, tcp, ble or espnow",
    "bundle": "the bundle's id",
    "inference_id": "the head's number for it",
    "outcome": "ok, or the error's name",
    "class_index": "of the largest value of the first output; null if it failed",
    "output_crc32": "over the bytes of all outputs; null if it failed",
    "kernels": "what computed it",
    "exact": "whether these are the device's kernels, and gave the bundle's own bytes here",
    "receive_us": "first fragment to whole boundary",
    "queue_us": "until an engine began",
    "invoke_us": "in the kernels",
    "latency_us": "first fragment to answer handed to the link",
}


class Sink(ABC):
    """One place for results. `written`, `dropped` and `waiting` count rows."""

    kind: ClassVar[str]

    def __init__(self, say: Callable[[str], None]) -> None:
        self.written = 0
        self.dropped = 0
        self.problem: str | None = None
        self._came = 0
        self._say = say
        self._waiting: deque[Row] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def _work(self) -> None:
        """Take rows out until `_closing`, and then what is left, briefly."""

    @property
    def waiting(self) -> int:
        """Rows that would be lost if this process died now."""
        return self._came - self.written - self.dropped

    def put(self, row: Row) -> None:
        """Never waits."""
        self._came += 1
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(row)
        if len(self._waiting) == 1:
            self._wake.set()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._guarded())

    async def _guarded(self) -> None:
        try:
            await self._work()
        except Exception:
            _log.exception("results to %s stopped", self.kind)

    async def close(self) -> None:
        """Hand over what waits, for a short while, stop, and say what was lost."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._waiting.clear()
        self.dropped = self._came - self.written
        if self.dropped:
            why = f": {self.problem}" if self.problem else ""
            _log.warning(
                "results to %s: %d of %d rows are lost%s", self.kind, self.dropped, self._came, why
            )

    def _take(self, most: int) -> list[Row]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _give_back(self, rows: Sequence[Row]) -> None:
        """What could not be handed over waits on, as far as there is room."""
        room = max(MOST_WAITING - len(self._waiting), 0)
        self.dropped += max(len(rows) - room, 0)
        self._waiting.extendleft(reversed(rows[len(rows) - min(room, len(rows)) :]))

    async def _pause(self, seconds: float) -> None:
        """Until then, or until it is closing."""
        end = time.monotonic() + seconds
        while not self._closing and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)
            if not self._closing:
                self._wake.clear()

    def _trouble(self, problem: str | None) -> None:
        """Say it once, and once when it is over."""
        if problem != self.problem:
            self._say(f"results to {self.kind}: {problem or 'all is well again'}")
        self.problem = problem


class ParquetSink(Sink):
    """Files NAME-START-NUMBER.parquet in a folder, each with up to PIECE_ROWS rows."""

    kind = "parquet"

    def __init__(self, folder: Path, name: str, say: Callable[[str], None]) -> None:
        """Raises GatewayError: pyarrow is not installed, or the folder cannot be made."""
        super().__init__(say)
        try:
            self._pa = importlib.import_module("pyarrow")
            self._parquet = importlib.import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise GatewayError(
                f"--results parquet needs {error.name}: pip install 'tinysplit[bench]' (in its "
                "checkout: pip install '.[bench]')"
            ) from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GatewayError(f"--results: cannot make {folder}: {error.strerror}") from error
        self._folder = folder
        self._stem = f"{name}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
        self._number = 0

    def _schema(self) -> Any:
        pa = self._pa
        integers = {n for n in COLUMNS if n.endswith("_us")} | {"inference_id", "output_crc32"}
        kinds = {name: pa.int64() if name in integers else pa.string() for name in COLUMNS}
        kinds |= {"class_index": pa.int32(), "exact": pa.bool_()}
        return pa.schema(
            [pa.field(name, kinds[name], True, {"description": COLUMNS[name]}) for name in COLUMNS]
        )

    async def _work(self) -> None:
        begun = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while not self._closing or self._waiting:
            due = begun + PIECE_S - time.monotonic()
            if (
                not self._closing
                and len(self._waiting) < PIECE_ROWS
                and (due > 0 or not self._waiting)
            ):
                await self._pause(min(max(due, 0.05), 1.0))
                continue
            rows = self._take(PIECE_ROWS)
            begun = time.monotonic()
            try:
                await asyncio.to_thread(self._write, rows)
            except (TinysplitError, OSError, self._pa.ArrowException) as error:
                self._trouble(" ".join(str(error).split()))
                self._give_back(rows)
                if self._closing:
                    return
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self._number += 1
                self.written += len(rows)
                pause_s = FIRST_PAUSE_S
                self._trouble(None)

    def _write(self, rows: list[Row]) -> None:
        table = self._pa.Table.from_pylist(rows, self._schema())
        with whole_file(self._folder / f"{self._stem}-{self._number:06}.parquet") as temporary:
            self._parquet.write_table(table, temporary, compression="zstd")
            _to_disk(temporary)
        _to_disk(self._folder)  # Its name.


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class WebhookSink(Sink):
    """POSTs JSON arrays of rows to a URL. What it refuses (4xx) is dropped, else tried again."""

    kind = "webhook"

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self._url = url

    async def _work(self) -> None:
        timeout = aiohttp.ClientTimeout(total=POST_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            failures = 0
            while not self._closing or self._waiting:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                if not self._closing and len(self._waiting) < POST_ROWS:
                    await self._pause(POST_S)
                rows = self._take(POST_ROWS)
                problem, hopeless = await self._post(session, rows)
                self._trouble(problem)
                if problem is None:
                    self.written += len(rows)
                    failures = 0
                    continue
                failures += 1
                if hopeless or failures >= POST_TRIES:
                    self.dropped += len(rows)
                    failures = 0
                else:
                    self._give_back(rows)
                if self._closing:
                    return
                await self._pause(min(FIRST_PAUSE_S * 2**failures, LONGEST_PAUSE_S))

    async def _post(
        self, session: aiohttp.ClientSession, rows: list[Row]
    ) -> tuple[str | None, bool]:
        """Why it was not taken (None: it was), and whether that is final."""
        try:
            async with session.post(self._url, json=rows, allow_redirects=False) as answer:
                if answer.status < 300:
                    return None, False
                refused = 400 <= answer.status < 500 and answer.status not in (408, 429)
                return f"the webhook answers {answer.status}", refused
        except asyncio.TimeoutError:
            return f"the webhook does not answer within {POST_TIMEOUT_S:g} s", False
        # A URL may have a token in its path: neither what has it in its text is told, nor the
        # whole of what a server says.
        except aiohttp.InvalidURL:
            return "the webhook's URL is none", True
        except aiohttp.ClientResponseError:
            return "the webhook does not answer as HTTP", False
        except aiohttp.ClientError as error:
            return f"the webhook cannot be reached: {error}", False


class MqttSink(Sink):
    """JSON arrays of rows at tinysplit/<gateway>/results, at least once (QoS 1).

    What waits for a broker that is away waits here.
    """

    kind = "mqtt"

    def __init__(self, found: access.Access, name: str, say: Callable[[str], None]) -> None:
        super().__init__(say)
        loop = asyncio.get_running_loop()
        self._topic = topics.topic(name, "results")

        def problem(error: MqttError) -> None:
            with contextlib.suppress(RuntimeError):  # The loop has ended.
                loop.call_soon_threadsafe(self._trouble, str(error))

        self._connection = Connection(found, on_problem=problem)

    async def _work(self) -> None:
        self._connection.start()
        try:
            while not self._closing or self._waiting:
                if not self._connection.up:
                    if self._closing:
                        return
                    await self._pause(MQTT_LOOK_S)
                    continue
                self._trouble(None)
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                if not self._closing and len(self._waiting) < POST_ROWS:
                    await self._pause(POST_S)
                rows = self._take(POST_ROWS)
                if self._connection.publish(self._topic, json.dumps(rows).encode()):
                    self.written += len(rows)
                else:
                    self._give_back(rows)
                    await self._pause(MQTT_LOOK_S)
        finally:
            if not await asyncio.to_thread(self._connection.close, None, MQTT_FAREWELL_S):
                _log.warning("results to mqtt: the broker may not have the last of them")


class Results:
    """All sinks of a gateway; an asynchronous context manager."""

    def __init__(self, gateway: Gateway, sinks: Sequence[Sink]) -> None:
        self.sinks = list(sinks)
        self._name = gateway.options.name
        if self.sinks:
            gateway.watches.append(self._outcome)

    async def __aenter__(self) -> Results:
        for sink in self.sinks:
            sink.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for sink in self.sinks:
            await sink.close()

    def _outcome(self, outcome: Outcome) -> None:
        row = row_of(outcome, self._name)
        for sink in self.sinks:
            sink.put(row)


def row_of(outcome: Outcome, gateway: str) -> Row:
    """The row of a request; COLUMNS says what is in it."""
    head, event, done = outcome.head, outcome.event, outcome.done
    trial = head.served.trial
    assert trial is not None
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "time_us": time.time_ns() // 1000,
        "gateway": gateway,
        "head": head.name,
        "transport": head.listener.kind,
        "bundle": head.served.id,
        "inference_id": event.inference_id,
        "outcome": code_name(outcome.code),
        "kernels": trial.kernels,
        "exact": head.served.exact,
        "receive_us": event.complete_us - event.first_us,
        "latency_us": outcome.latency_us,
    }
    if done is not None:
        first = head.served.bundle.manifest.outputs[0]
        crc = 0
        for tensor in done.tensors:
            crc = zlib.crc32(tensor, crc)
        row |= {
            "class_index": int(np.frombuffer(done.tensors[0], first.dtype).argmax()),
            "output_crc32": crc,
            "queue_us": done.started_us - outcome.queued_us,
            "invoke_us": done.invoke_us,
        }
    return row


def parse(text: str, name: str, say: Callable[[str], None]) -> Sink:
    """The sink of a text that host/gateway/cli.py has checked. Must run in the loop.

    Raises:
        GatewayError, AccessError: says why it cannot be had.
    """
    kind, _, rest = text.partition(":")
    if kind == "parquet":
        return ParquetSink(Path(rest), name, say)
    if kind == "webhook":
        return WebhookSink(rest, say)
    return MqttSink(access.need(text), name, say)
