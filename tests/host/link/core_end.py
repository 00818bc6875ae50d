"""firmware/core as an endpoint of the simulation: the same calls, bytes in and bytes out.

The core and `tests/core/end.c` are compiled once per test run, with the undefined-behaviour
sanitizer where the compiler has it.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cffi import FFI

from host.link.endpoint import Output

ROOT = Path(__file__).parents[3]
NEVER = (1 << 64) - 1
UP, DOWN, SENT, MESSAGE, RESULT = range(5)
MAX_MESSAGE = 8192

ffi = FFI()
ffi.cdef(
    """
    struct end_event { uint32_t type, code, token, length; uint8_t body[8192]; };
    typedef struct end end;
    end *end_new(int head, uint16_t mtu, int stream, int coding, uint32_t seed, uint64_t now);
    void end_link(end *e, uint16_t window, uint8_t reorder, uint32_t rto_min_us, uint32_t room);
    uint32_t end_data_out(end *e);
    void end_free(end *e);
    void end_receive(end *e, uint64_t now, const uint8_t *frame, size_t len);
    uint64_t end_poll(end *e, uint64_t now);
    int end_infer(end *e, uint64_t now, uint32_t inference, const uint8_t *data, uint32_t len,
                  uint32_t timeout_ms);
    int end_send(end *e, uint64_t now, uint8_t kind, const uint8_t *body, uint32_t len,
                 uint32_t timeout_ms, uint32_t token);
    size_t end_take_frame(end *e, uint8_t *out);
    int end_take_event(end *e, struct end_event *out);
    """
)


@functools.cache
def library() -> Any:
    """The compiled core; skips the test where there is no C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc")
    core = ROOT / "firmware/core"
    sources = [*sorted((core / "src").glob("*.c")), ROOT / "tests/core/end.c"]
    with tempfile.TemporaryDirectory() as place:
        built = Path(place) / "end.so"
        command = [
            compiler,
            "-std=c11",
            "-O1",
            "-shared",
            "-fPIC",
            f"-I{core}/include",
            "-o",
            built,
        ]
        sanitize = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
        for options in (sanitize, []):
            done = subprocess.run([*command, *options, *sources], capture_output=True, text=True)
            if done.returncode == 0:
                return ffi.dlopen(str(built))
    raise AssertionError(done.stderr)


class CoreEvent(NamedTuple):
    """`token`: of a message sent; of a result its inference; of a message received its kind."""

    type: int
    code: int
    token: int
    body: bytes


class CoreEnd:
    """A head or a tail on the C core; its only peer is called `peer`."""

    def __init__(
        self,
        *,
        head: bool,
        peer: Any,
        mtu: int,
        seed: int,
        now: int,
        stream: bool = False,
        coding: bool = False,
    ) -> None:
        self._lib = library()
        self._end = ffi.gc(
            self._lib.end_new(head, mtu, stream, coding, seed & 0xFFFF_FFFF, now),
            self._lib.end_free,
        )
        assert self._end != ffi.NULL
        self.peer = peer
        self._frame = ffi.new("uint8_t[]", 16384)
        self._event = ffi.new("struct end_event *")

    def receive(self, frame: bytes, source: Any, now: int) -> list[CoreEvent]:
        if source == self.peer:
            self._lib.end_receive(self._end, now, frame, len(frame))
        return self._events()

    def poll(self, now: int) -> Output:
        due = self._lib.end_poll(self._end, now)
        frames: list[tuple[Any, bytes]] = []
        while (frame := self.take_frame()) is not None:
            frames.append((self.peer, frame))
        events: list[Any] = list(self._events())
        return Output(frames, events, None if due == NEVER else due)

    def on_link(self, *, window: int, reorder: int, rto_min_us: int, room: int) -> None:
        """Make it another link, full when `room` frames wait for `take_frame`."""
        self._lib.end_link(self._end, window, reorder, rto_min_us, room)

    def step(self, now: int) -> tuple[int | None, list[CoreEvent]]:
        """As `poll`, but frames stay until they are taken. When it is due again, and events."""
        due = self._lib.end_poll(self._end, now)
        return None if due == NEVER else due, self._events()

    def take_frame(self) -> bytes | None:
        """The oldest frame that waits."""
        size = self._lib.end_take_frame(self._end, self._frame)
        return bytes(ffi.buffer(self._frame, size)) if size else None

    @property
    def data_out(self) -> int:
        """DATA frames sent so far."""
        return int(self._lib.end_data_out(self._end))

    def infer(self, inference: int, data: bytes, timeout_ms: int, now: int) -> int:
        return self._lib.end_infer(self._end, now, inference, data, len(data), timeout_ms)

    def send(self, kind: int, body: bytes, timeout_ms: int, token: int, now: int) -> int:
        return self._lib.end_send(self._end, now, kind, body, len(body), timeout_ms, token)

    def _events(self) -> list[CoreEvent]:
        events = []
        while self._lib.end_take_event(self._end, self._event):
            e = self._event
            events.append(CoreEvent(e.type, e.code, e.token, bytes(ffi.buffer(e.body, e.length))))
        return events
