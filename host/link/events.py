"""What an endpoint tells its user.

Theory of operation. Every event names its peer, by the address the user gave or got. Events
that hand over a message (`*Received`) occupy one of the receiver's slots until the user gives
it back with `Endpoint.release(event, now)`: that is how a slow application holds a fast sender
back. Times are microseconds of the clock that the user passes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from host.link.errors import LinkError
from host.link.messages import Blob, PhaseRecord
from host.link.session import Node

Address = Any  # Hashable; whatever the transport calls a peer.


@dataclass(frozen=True)
class Event:
    """Something happened with `peer`."""

    peer: Address


@dataclass(frozen=True)
class SessionOpened(Event):
    """A session is up. `frame_size` in bytes; `bundle` is the peer's, `node` this end's."""

    session: int
    role: int
    stage: int
    bundle: bytes
    frame_size: int
    node: Node


@dataclass(frozen=True)
class SessionEnded(Event):
    """The session is over, or an attempt to open one failed; `error` says why.

    `will_retry`: the initiator tries again by itself and keeps its unresolved messages.
    """

    error: LinkError
    was_up: bool
    will_retry: bool


@dataclass(frozen=True)
class Received(Event):
    """A whole, checked message. `first_us`: its first fragment; `complete_us`: its last."""

    session: int
    message_id: int
    first_us: int
    complete_us: int


@dataclass(frozen=True)
class TensorReceived(Received):
    """A boundary to be worked on. `deadline_us`: when the sender stops waiting.

    `tensors` are as they travelled under `codec`: see `messages.decode_boundary`.
    """

    inference_id: int
    stage: int
    tensors: tuple[memoryview, ...]
    deadline_us: int
    codec: int


@dataclass(frozen=True)
class ResultReceived(Received):
    """The output of an inference, with the phases that the stages on the way measured."""

    inference_id: int
    stage: int
    tensors: tuple[memoryview, ...]
    phases: tuple[PhaseRecord, ...]


@dataclass(frozen=True)
class FailureReceived(Received):
    """An inference failed at `stage`; id 0 is none in particular."""

    inference_id: int
    stage: int
    error: LinkError


@dataclass(frozen=True)
class ControlReceived(Received):
    """A command or answer; `messages.decode_control(body)` reads it."""

    body: memoryview


@dataclass(frozen=True)
class BlobReceived(Received):
    """A piece of something big."""

    blob: Blob


@dataclass(frozen=True)
class PrivateReceived(Received):
    """A message of a private kind, 128 to 255."""

    kind: int
    body: memoryview


@dataclass(frozen=True)
class MessageSent(Event):
    """The peer has the message, whole. `frames` and `frame_bytes` count its DATA frames.

    `fragments` is how many frames it would have taken on a link that loses nothing.
    """

    token: int
    submitted_us: int
    first_us: int
    acked_us: int
    fragments: int
    frames: int
    frame_bytes: int


@dataclass(frozen=True)
class MessageFailed(Event):
    """The message is over and did not arrive whole, or nobody knows whether it did."""

    token: int
    error: LinkError
