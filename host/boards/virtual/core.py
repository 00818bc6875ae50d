"""The C core of the firmware with sockets, as a Python object: `_board` behind types."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from host.boards.address import Address
from host.boards.virtual import _board
from host.boards.virtual.radio import Radio
from models.errors import TinysplitError
from partitioner import codec
from partitioner.chain import Stage, StageError

OK, MALFORMED, INVOKE_FAILED = 0, 17, 19
_ROLES = {"head": 1, "relay": 2, "tail": 3}
_TRANSPORTS = {"udp": 0, "tcp": 1}
_PACKET = 2
_SLACK_BYTES = 512  # Message headers and phase records beside the tensors.
_LEAST_MESSAGE = 4096 + _SLACK_BYTES  # A sector of an update as a BLOB, or a command.


class CoreError(TinysplitError):
    """The core cannot open its sockets, or refuses its settings."""


@dataclass(frozen=True)
class Settings:
    """What a node is and whom it talks to; see control.schema.json."""

    stage: int
    listen: Address
    next: Address | None
    mtu: int = 0
    window: int = 0
    timeout_ms: int = 10_000
    peers: int = 8
    jobs: int = 4
    refuse: bool = False
    codec: str = "raw"


@dataclass(frozen=True)
class Phase:
    """A step of an inference at one stage, by that stage's clock."""

    stage: int
    phase: int
    duration_us: int


@dataclass(frozen=True)
class Result:
    """The end of an inference begun here. `code` is an error's name, `ok` if all went well."""

    inference: int
    code: str
    stage: int
    text: str
    tensors: tuple[bytes, ...]
    phases: tuple[Phase, ...]
    fragments_sent: int
    fragments_resent: int
    total_us: int


@dataclass(frozen=True)
class Message:
    """A CONTROL or BLOB message (`kind` as in SPEC.md section 5), and the session it came in."""

    kind: int
    body: bytes
    session: int
    sid: int


def error_name(code: int) -> str:
    """The name of an error code, as in SPEC.md section 11."""
    name: bytes = _board.ffi.string(_board.lib.ts_error_name(code))
    return name.decode() if name != b"unknown" else f"error {code}"


def _stamp(stamp: Any) -> dict[str, int] | None:
    """A `struct vb_stamp`; None: not known."""
    return {"inference": stamp.inference, "at_us": stamp.at_us} if stamp.at_us else None


def role_of(stage: int, stages: int) -> str:
    """head, relay or tail."""
    return "head" if stage == 0 else "tail" if stage == stages - 1 else "relay"


@_board.ffi.def_extern(error=INVOKE_FAILED)  # type: ignore[untyped-decorator]
def invoke_stage(
    context: Any,
    data: Any,
    lengths: Any,
    count: int,
    output: Any,
    capacity: int,
    out_lengths: Any,
    out_count: Any,
    invoke_us: Any,
    encode_us: Any,
) -> int:
    """Called by the core, within `Core.step`, to run the stage."""
    core: Core = _board.ffi.from_handle(context)
    sizes = [int(lengths[i]) for i in range(count)]
    try:
        received = core.stage.decode(_board.ffi.buffer(data, sum(sizes))[:], sizes)
    except StageError:
        return MALFORMED
    done = core.stage.run(received)
    core.runs, core.last_invoke_us = core.runs + 1, done.invoke_us
    if sum(tensor.nbytes for tensor in done.tensors) > capacity:
        return INVOKE_FAILED
    at = 0
    target = _board.ffi.buffer(output, capacity)
    for i, tensor in enumerate(done.tensors):
        target[at : at + tensor.nbytes] = tensor.tobytes()
        out_lengths[i] = tensor.nbytes
        at += tensor.nbytes
    out_count[0] = len(done.tensors)
    invoke_us[0] = max(done.invoke_us, 1)
    encode_us[0] = done.encode_us
    return OK


class Core:
    """A node: the C core, its sockets, and a stage as its engine. One thread."""

    def __init__(
        self,
        settings: Settings,
        stage: Stage,
        stages: int,
        bundle_id: str,
        result_bytes: int,
        radio: Radio | None = None,
    ) -> None:
        """Open the sockets, or take a started radio; it stays the caller's.

        Args:
            stages: how many the bundle has.
            result_bytes: the sum of the last stage's outputs.

        Raises:
            CoreError: the address is in use or not to be had.
        """
        self.stage = stage
        self.runs, self.last_invoke_us = 0, 0  # Invocations of the stage, and what the last took.
        self._ffi = _board.ffi
        self._handle = self._ffi.new_handle(self)
        largest = max(stage.received_bytes, result_bytes)
        listen, following = settings.listen, settings.next
        self._keep = [self._ffi.new("char[]", listen.host.encode())]
        config = self._ffi.new("struct vb_config *")
        config.transport = _PACKET if radio is not None else _TRANSPORTS[listen.transport]
        config.role = _ROLES[role_of(settings.stage, stages)]
        config.stage, config.stage_count = settings.stage, stages
        config.bundle = list(bytes.fromhex(bundle_id))
        config.refuse = settings.refuse
        config.listen_host, config.listen_port = self._keep[0], listen.port
        if following is not None:
            self._keep.append(self._ffi.new("char[]", following.host.encode()))
            config.next_host, config.next_port = self._keep[1], following.port
        config.mtu, config.window = settings.mtu, settings.window
        if radio is not None:
            self._take(radio, config, following)
        config.peers = settings.peers + (following is not None)
        config.jobs = settings.jobs
        config.max_message = max(largest + _SLACK_BYTES, _LEAST_MESSAGE)
        config.max_output = max(stage.sent_bytes, 1)
        config.max_input = max(stage.received_bytes, 1)
        config.offer_codec = settings.codec == "auto"
        for i, sent in enumerate(stage.sent):
            near = codec.near_of(sent.shape, np.dtype(sent.dtype).itemsize)
            if near is not None:
                config.near[i].left, config.near[i].above = near.pixel, near.row
        config.message_timeout_ms = settings.timeout_ms
        config.invoke = _board.lib.invoke_stage
        config.ctx = self._handle
        code = self._ffi.new("int *")
        self._board = _board.lib.vb_new(config, code)
        if self._board == self._ffi.NULL:
            why = os.strerror(code[0]) if code[0] else "the core refuses its settings"
            raise CoreError(f"cannot listen on {listen}: {why}")
        self._tensors = self._ffi.new("uint8_t[]", result_bytes + _SLACK_BYTES)
        self._body = self._ffi.new("uint8_t[]", config.max_message)
        self.address = replace(listen, port=self.status()["port"])

    @staticmethod
    def _take(radio: Radio, config: Any, following: Address | None) -> None:
        """What the core must know of a radio's link."""
        profile = radio.profile
        config.packet_fd = radio.fileno()
        config.mtu = config.mtu or profile.mtu
        config.window = config.window or profile.window
        config.reorder = profile.reorder
        config.rto_min_us = profile.rto_min_us
        config.pace_ns_per_byte = round(8e9 / profile.pace_bps) if profile.pace_bps else 0
        config.listen_host = config.next_host = _board.ffi.NULL
        if following is not None:
            name = radio.peer(following)
            config.next_addr[0 : len(name)] = list(name)
            config.next_addr_len = len(name)

    def close(self) -> None:
        """Close the sockets; nothing else may be called afterwards."""
        if self._board != self._ffi.NULL:
            _board.lib.vb_free(self._board)
            self._board = self._ffi.NULL

    def step(self, timeout_us: int, extra_fd: int = -1) -> tuple[bool, bool]:
        """Serve the sockets for at most `timeout_us`.

        Returns whether `extra_fd` can be read and whether a result waits; early for messages, too.
        """
        flags = _board.lib.vb_step(self._board, timeout_us, extra_fd)
        if flags < 0:
            raise CoreError("waiting for the sockets failed")
        return bool(flags & 1), bool(flags & 2)

    def infer(self, inference: int, tensors: Sequence[bytes], timeout_ms: int) -> str:
        """Begin an inference on what this stage receives. Returns `ok` or why not, by name."""
        lengths = self._ffi.new("uint32_t[8]", [len(t) for t in tensors])
        data = b"".join(tensors)
        code = _board.lib.vb_infer(self._board, inference, data, lengths, len(tensors), timeout_ms)
        return error_name(code)

    def abort(self) -> int:
        """Cancel every inference under way; each gives a result `cancelled`. Returns how many."""
        count: int = _board.lib.vb_abort(self._board)
        return count

    def take_result(self) -> Result | None:
        """The oldest result that waits."""
        found = self._ffi.new("struct vb_result *")
        size = len(self._tensors)
        if not _board.lib.vb_take_result(self._board, found, self._tensors, size):
            return None
        tensors, at = [], 0
        for i in range(found.count):
            tensors.append(bytes(self._ffi.buffer(self._tensors + at, found.bytes[i])))
            at += found.bytes[i]
        return Result(
            inference=found.inference,
            code=error_name(found.code),
            stage=found.stage,
            text=self._ffi.string(found.text).decode("utf-8", "replace"),
            tensors=tuple(tensors),
            phases=tuple(
                Phase(p.stage, p.phase, p.duration_us)
                for p in (found.phases[i] for i in range(found.phase_count))
            ),
            fragments_sent=found.fragments_sent,
            fragments_resent=found.fragments_resent,
            total_us=found.total_us,
        )

    def take_message(self) -> Message | None:
        """The oldest CONTROL or BLOB message that waits.

        None also while answers to its sender are still on their way.
        """
        found = self._ffi.new("struct vb_message *")
        if not _board.lib.vb_take_message(self._board, found, self._body, len(self._body)):
            return None
        body = bytes(self._ffi.buffer(self._body, found.len))
        return Message(found.kind, body, found.session, found.sid)

    def answer(self, message: Message, text: bytes) -> bool:
        """Send CONTROL in the session that `message` came in; False if that is over."""
        if self._board == self._ffi.NULL:
            return False
        code = _board.lib.vb_send_control(
            self._board, message.session, message.sid, text, len(text)
        )
        return bool(code == OK)

    @property
    def answers(self) -> int:
        """How many answers are not delivered yet."""
        return int(_board.lib.vb_answers(self._board))

    def status(self) -> dict[str, Any]:
        """Counters and the state of the session to the next stage."""
        status = self._ffi.new("struct vb_status *")
        _board.lib.vb_get_status(self._board, status)
        link = status.link
        names = (
            "frames_in frames_out data_out data_resent dropped duplicates blocked send_errors "
            "bytes_out bytes_in"
        )
        known = status.clock_uncertainty_us > 0
        return {
            **{name: getattr(link, name) for name in names.split()},
            "port": status.port,
            "sessions_up": status.sessions_up,
            "next_up": bool(status.downstream_up),
            "next_error": error_name(status.downstream_error),
            "frame_size": status.frame_size,
            "codec": status.codec,
            "raw_bytes": status.raw_bytes,
            "coded_bytes": status.coded_bytes,
            "srtt_us": status.srtt_us or None,
            "clock_offset_us": status.clock_offset_us if known else None,
            "clock_uncertainty_us": status.clock_uncertainty_us if known else None,
            "clock_age_us": status.clock_age_us if known else None,
            "complete": _stamp(status.complete),
            "handed": _stamp(status.handed),
        }
