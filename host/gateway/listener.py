"""Where heads come in: one transport with the protocol on it, and whom it tells."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from host.boards import address
from host.gateway.schedule import Head
from host.link.driver import Driver, now_us
from host.link.endpoint import Acceptor
from host.link.errors import ErrorCode, LinkError
from host.link.events import (
    Address,
    Event,
    MessageFailed,
    MessageSent,
    Received,
    SessionEnded,
    SessionOpened,
    TensorReceived,
)
from host.link.frames import Kind
from host.link.messages import Buffer, PhaseRecord
from host.link.session import Node, Profile
from host.link.transport import ServerTransport, TransportError

# Who sends HELLO may be anybody: they get this share of the loop's time, and may save it up.
STRANGERS_SHARE: Final = 0.1
STRANGERS_SAVED_US: Final = 500_000
STRANGERS_AT_ONCE: Final = 8
HELLO: Final = bytes([Kind.HELLO << 4])

_log = logging.getLogger(__name__)


class Share:
    """A share of time that may be saved up. `left_us` may be owed, too. Pure."""

    def __init__(self, share: float, most_us: int) -> None:
        self._share = share
        self._most_us = most_us
        self._left_us = float(most_us)
        self._then_us = 0

    def left(self, now_us: int) -> bool:
        """Whether there is something left."""
        earned = (now_us - self._then_us) * self._share
        self._left_us = min(self._left_us + earned, self._most_us)
        self._then_us = now_us
        return self._left_us > 0

    def spend(self, us: int) -> None:
        self._left_us -= us


class Past(NamedTuple):
    """What a head did in sessions that are over."""

    sessions: int
    requests: int
    errors: int


class ListenerUser(ABC):
    """Who hears of heads. All in the loop's thread."""

    @abstractmethod
    def opened(self, listener: Listener, event: SessionOpened) -> None:
        """A session is up."""

    @abstractmethod
    def asked(self, listener: Listener, event: TensorReceived) -> None:
        """A request; it holds its slot until it is released."""

    @abstractmethod
    def settled(self, listener: Listener, event: MessageSent | MessageFailed) -> None:
        """An answer has arrived, or cannot."""

    @abstractmethod
    def trouble(self, listener: Listener, error: TransportError) -> None:
        """The link below failed; it may come back."""

    @abstractmethod
    def ended(self, listener: Listener, event: SessionEnded) -> None:
        """A session is over; nothing of it can be answered any more."""


class Listener(Driver):
    """An acceptor on a transport. `name` is what the user called it, such as `udp://0.0.0.0:4000`.

    What is to be sent leaves with `flush`, so that many answers cost one look at the protocol.
    """

    def __init__(
        self,
        name: str,
        transport: ServerTransport,
        nodes: Sequence[Node],
        profile: Profile,
        user: ListenerUser,
    ) -> None:
        self.name = name
        self.kind = name.partition(":")[0]
        self.endpoint = Acceptor(nodes, profile)
        self.server = transport
        self.heads: dict[Address, Head] = {}
        self.history: OrderedDict[Address, Past] = OrderedDict()  # Of those without a session.
        self.tokens: dict[int, Head] = {}  # Answers that have not arrived yet.
        self.strangers = Share(STRANGERS_SHARE, STRANGERS_SAVED_US)
        self._user = user
        super().__init__(self.endpoint, transport)

    @property
    def place(self) -> str:
        return self.server.place

    def name_of(self, peer: Address) -> str:
        """What a peer of this listener is called."""
        if isinstance(peer, bytes):
            return f"{self.kind}://{peer.hex(':')}"
        if self.kind in ("udp", "tcp"):
            return str(address.Address(self.kind, peer[0], peer[1]))
        return f"{self.kind}://{str(peer).lower()}"

    async def open(self) -> None:
        """Raises TransportError."""
        await self.server.open(self)
        self._pump()

    def frames_received(self, batch: list[tuple[bytes, Address]]) -> None:
        """Frames of sessions first; HELLOs for as long as strangers' share lasts.

        A HELLO that is dropped comes again (SPEC.md section 10); a flood of them is not waited for.
        """
        hellos = [one for one in batch if one[0][:1] == HELLO]
        if len(hellos) < len(batch):
            known = [one for one in batch if one[0][:1] != HELLO] if hellos else batch
            super().frames_received(known)
        for at in range(0, len(hellos), STRANGERS_AT_ONCE):
            began_us = now_us()
            if not self.strangers.left(began_us):
                self.endpoint.receiving.dropped += len(hellos) - at
                break
            super().frames_received(hellos[at : at + STRANGERS_AT_ONCE])
            self.strangers.spend(now_us() - began_us)

    def flush(self) -> None:
        """Send what there is to send."""
        self._pump()

    def release(self, event: Received) -> None:
        """Give a request's slot back."""
        self.endpoint.release(event, now_us())

    def answer(
        self, event: TensorReceived, tensors: Sequence[Buffer], phases: Sequence[PhaseRecord]
    ) -> int | None:
        """A RESULT; its token, None if nobody waits for it."""
        try:
            return self.endpoint.send_result(
                event, tensors, phases, now_us(), deadline_us=event.deadline_us
            )
        except LinkError as error:
            return self.refuse(event, ErrorCode.INVOKE_FAILED, str(error))

    def refuse(self, event: TensorReceived, code: int, text: str) -> int | None:
        """An ERROR; its token, None if nobody waits for it."""
        return self.endpoint.send_failure(event, code, text, now_us())

    def sweep(self) -> None:
        """Once a second: let go of connections on which nobody opens a session."""
        self.server.sweep(self.heads)

    def link_error(self, error: TransportError) -> None:
        if self.kind in ("udp", "tcp"):
            _log.debug("%s: %s", self.name, error)  # Peers that went away.
        else:
            self._user.trouble(self, error)

    async def close(self) -> None:
        """Say BYE to everybody and let go."""
        if self._closed:
            return
        self.endpoint.close_all(now_us())
        self._pump()
        await self._stop()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, TensorReceived):
            self._user.asked(self, event)
        elif isinstance(event, MessageSent | MessageFailed):
            self._user.settled(self, event)
        elif isinstance(event, SessionOpened):
            self._user.opened(self, event)
        elif isinstance(event, SessionEnded):
            self._user.ended(self, event)
        elif isinstance(event, Received):
            self.release(event)
