"""One board of an update: what it runs, the image brought to it, its restart.

Theory of operation. Every step can be asked for again, and begins by asking the board where it
stands (IMAGE.md section 8): `update_begin` says how much of the image it has. So a board that
vanishes is waited for, and what was under way goes on from there. What the board refuses ends its
part of the update, by the name it gives. Every command carries a number of this update's own: from
`update_begin` on the board refuses all others, until this one has let go or was silent for long
(`busy`, which is waited for, too).
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard, TypeVar

from host.boards import address
from host.boards.board import Board, BoardError
from host.boards.linked import LinkedBoard
from host.boards.serial import facing
from host.ota.server import ImageServer
from host.ota.shipment import Shipment
from host.reach import Place, Reach

PIECE_BYTES = 3072  # control.schema.json
LEAST_BOOT_S = 3.0  # What a restart is given whatever the patience.
LEAST_MEETING_S = 15.0  # Likewise, a chain until its sessions are up.
VERIFY_TIMEOUT_S = 60.0
NO_PROGRESS_S = 60.0  # Of a download; a board gives up sooner.
HOLD_S = (
    4.0  # How often a board that is done is told that the others are not; it forgets after 20 s.
)
RELEASE_TIMEOUT_S = 0.5
VIAS = ("control", "link", "http")
_CHECK_BYTES = 64 * 1024  # BLOBs have no answer: how often a board is asked what it has.
_LINE_SLACK_BYTES = 128  # Of update_data, beside its base64.
_POLL_S = 0.1
_SERVING_POLL_S = 0.02
_AGAIN_S = 0.3
_ATTEMPTS = 3
# A board or the way to it is gone; either may come back.
PASSING = frozenset(
    (
        *("gone", "no_answer", "no_port", "restarted", "unreachable", "no_peer", "peer_lost"),
        *("busy", "deadline", "replaced", "reset", "closed", "send_failed", "cancelled"),
        *("offline", "no_node", "no_broker"),
    )
)

# What a board's refusal means for who sends; IMAGE.md section 9 has the names.
_REFUSALS = {
    "image_chip": "it is for another chip",
    "image_firmware": "it needs a newer firmware; --firmware brings one",
    "image_arena": "it needs more arena than this board has",
    "image_too_large": "it is longer than this board's slot",
    "image_unsigned": "it is not signed, and this board takes signed ones only: give --key",
    "image_no_key": "it is signed, and this board holds no public key to check it with",
    "image_signature": "it is not signed with the key of this board, or was changed since",
    "image_version": "it is not newer than what this board has had; to go back on purpose, pack it "
    "with --downgrade-from",
}

T = TypeVar("T")


def _is_u32(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32


def _here() -> str:
    """This program, for who finds a board busy with its update."""
    return f"{re.sub('[^A-Za-z0-9._-]', '-', socket.gethostname())[:24]}:{os.getpid()}"


class DeliveryError(BoardError):
    """A board refuses, or is gone for longer than was to be waited; `code` says which."""


class StoppedError(Exception):
    """Another board of the update failed."""


@dataclass
class Node:
    """A board of the fleet: `stage` of chain number `chain`, and where it is."""

    chain: int
    label: str
    stage: int
    name: str
    place: Place


@dataclass
class Report:
    """What became of a board; `state` is one of

    unknown      not asked yet, or it does not answer
    current      it runs the image already
    old          it runs what it did; nothing of the new image is ready
    staged       the new image is there, verified; the old one runs
    armed        its next restart runs the new one; the old one runs
    running      it runs the new one
    rolled_back  the new one failed on it; it went back
    """

    state: str = "unknown"
    before: dict[str, Any] = field(default_factory=dict)
    sent_bytes: int = 0
    resumed_at: int = 0
    interruptions: int = 0
    seconds: float = 0.0
    code: str | None = None
    error: str | None = None


class Courier:
    """Brings one image to one board. Used by one thread at a time.

    Args:
        via: one of VIAS, None: the link where there is one, else the control line.
        patience_s: how long a board may be gone.
        watch: called when something has changed in `report` or `offset`.
        take_over: whoever else's update the board says is under way.
    """

    def __init__(
        self,
        node: Node,
        reach: Reach,
        *,
        via: str | None = None,
        patience_s: float = 30.0,
        server: ImageServer | None = None,
        stop: threading.Event | None = None,
        watch: Callable[[Courier], None] | None = None,
        take_over: bool = False,
    ) -> None:
        self.node = node
        self.report = Report()
        self.image: Shipment | None = None
        self.offset = 0
        self.restarted_at: float | None = None
        self.served_at: float | None = None
        self._via = via
        self._reach = reach
        self._patience_s = patience_s
        self._server = server
        self._stop = stop or threading.Event()
        self._watch = watch or (lambda _: None)
        self._board: Board | None = None
        self._owner = 1 + secrets.randbelow((1 << 32) - 1)
        self._take_over = take_over
        self._holds = False
        self._deadline = 0.0
        self.info: dict[str, Any] = {}

    @property
    def label(self) -> str:
        return f"{self.node.label} ({self.node.name})"

    def _tell(self, state: str) -> None:
        self.report.state = state
        self._watch(self)

    def close(self) -> None:
        board, self._board = self._board, None
        if board is not None:
            board.close()

    def leave(self) -> None:
        """End what another thread does here as soon as may be, by StoppedError."""
        self._stop.set()

    def _with_board(self, work: Callable[[Board], T]) -> T:
        """Do `work`, again if the board vanishes and comes back in time."""
        self._deadline = time.monotonic() + self._patience_s
        while True:
            try:
                if self._board is None:
                    self._board = self._reach.open(self.node.place, self.label, self._stop)
                return work(self._board)
            except DeliveryError:
                raise
            except BoardError as error:
                if self._stop.is_set():
                    raise StoppedError from error
                if error.code not in PASSING:
                    why = _REFUSALS.get(error.code)
                    text = str(error) if why is None else f"{self.label} refuses the image: {why}"
                    raise DeliveryError(error.code, text) from error
                if time.monotonic() > self._deadline:
                    code = "busy" if error.code == "busy" else "gone"
                    raise DeliveryError(code, str(error)) from error
                if error.code != "busy":
                    self.close()
                    self.report.interruptions += 1
            if self._stop.wait(_AGAIN_S):
                raise StoppedError

    def _ask(self, board: Board, name: str, **fields: Any) -> dict[str, Any]:
        """An update command of this update."""
        return board.ask(f"update_{name}", VERIFY_TIMEOUT_S, owner=self._owner, **fields)

    def _offset_in(self, answer: dict[str, Any]) -> int:
        """How much of the image a board says it has. Raises DeliveryError: it cannot."""
        offset, most = answer.get("offset"), len(self._wanted().data)
        if not _is_u32(offset) or offset > most:
            raise DeliveryError("bad_reply", f"{self.label} cannot have {offset!r} of {most} bytes")
        return int(offset)

    def hold(self) -> None:
        """Keep the board for this update while others are not as far; it need not be there."""
        if self._holds and self._board is not None:
            # Refused `slot_order` where nothing is being received; heard all the same.
            with contextlib.suppress(BoardError):
                self._board.ask("update_data", owner=self._owner, offset=0, data="")

    def release(self) -> None:
        """Let others update the board, if it is there to be told."""
        board, holds, self._holds = self._board, self._holds, False
        if board is not None and holds:
            board.stop = late = threading.Event()
            timer = threading.Timer(RELEASE_TIMEOUT_S, late.set)
            timer.start()
            with contextlib.suppress(BoardError):
                board.ask("update_release", RELEASE_TIMEOUT_S, owner=self._owner)
            timer.cancel()

    # What it runs, and the image.

    def survey(self) -> None:
        """Ask the board who it is. Raises DeliveryError."""
        self.info = self._with_board(lambda board: board.ask("info"))
        version = self.info.get("image_version")
        if version is not None and not _is_u32(version):
            raise DeliveryError("bad_reply", f"{self.label} says nothing that could be its image")
        self.report.before = {
            name: self.info.get(name)
            for name in ("bundle", "stage", "image", "image_version", "firmware")
        }
        self._tell("old")

    def runs(self, image: Shipment) -> bool:
        member, value = image.runs
        return bool(self.info.get(member) == value)

    def mark_current(self) -> None:
        self._tell("current")

    def claim(self, image: Shipment) -> None:
        """Begin the update on the board, which others find busy from now on.

        Raises:
            DeliveryError: refused; `busy`: another one is under way for longer than was waited.
            StoppedError: others failed.
        """
        self._choose(image)
        try:
            self._with_board(self._begin)
        except DeliveryError as error:
            if error.code != "duplicate":  # `bring` finds it there.
                raise

    def _choose(self, image: Shipment) -> None:
        self.image = image
        stage = self.info.get("stage")
        if image.stage_count and stage not in (None, image.stage):
            raise DeliveryError(
                "image_stage", f"{self.label} runs stage {stage}, and the image is of {image.stage}"
            )

    def bring(self, image: Shipment) -> None:
        """Send the image until the board has verified it. Raises DeliveryError, StoppedError."""
        self._choose(image)
        started = time.monotonic()
        try:
            self._with_board(self._bring)
        finally:
            self.report.seconds += time.monotonic() - started

    def _wanted(self) -> Shipment:
        assert self.image is not None
        return self.image

    def _begin(self, board: Board) -> int:
        """Where to go on; the image's length: it is there."""
        image = self._wanted()
        header = base64.b64encode(image.header).decode()

        def begin() -> int:
            answer = self._ask(
                board,
                "begin",
                data=header,
                digest=image.digest,
                by=_here(),
                take_over=self._take_over,
            )
            self._take_over = False
            return self._offset_in(answer)

        try:
            self._holds = True
            return begin()
        except BoardError as error:
            if error.code != "slot_busy":
                raise
        try:
            # Armed by an earlier command that came no further.
            self._ask(board, "activate", digest=image.digest)
        except BoardError as error:
            if error.code != "slot_not_ready":
                raise
            self._ask(board, "abort")  # Another image was.
            return begin()
        return len(image.data)

    def _bring(self, board: Board) -> None:
        image = self._wanted()
        try:
            self.offset = self._begin(board)
        except BoardError as error:
            if error.code == "duplicate":
                self._tell("current")
                return
            raise
        if self.offset == len(image.data):
            self._tell("staged")
            return
        self.report.resumed_at = max(self.report.resumed_at, self.offset)
        self._watch(self)
        via = self._via or ("link" if isinstance(board, LinkedBoard) else "control")
        if via == "http":
            self._have_it_fetched(board)
        else:
            self._send(board, blobs=via == "link")
            self._ask(board, "finish")
        self._tell("staged")

    def _advance(self, offset: int) -> None:
        if offset > self.offset:
            self.report.sent_bytes += offset - self.offset
            self._deadline = time.monotonic() + self._patience_s
        self.offset = offset
        self._watch(self)
        if self._stop.is_set():
            raise StoppedError

    def _send(self, board: Board, blobs: bool) -> None:
        data = self._wanted().data
        if blobs and not isinstance(board, LinkedBoard):
            raise DeliveryError("invalid", f"{self.label}: via link needs the address of a link")
        furthest, moved = self.offset, time.monotonic()
        while self.offset < len(data):
            if self.offset > furthest:
                furthest, moved = self.offset, time.monotonic()
            elif time.monotonic() - moved > NO_PROGRESS_S:
                raise DeliveryError(
                    "no_progress", f"{self.label} takes no more than {furthest:,} bytes of it"
                )
            if blobs and isinstance(board, LinkedBoard):
                self._send_blobs(board)
            else:
                self._send_command(board)

    def _send_command(self, board: Board) -> None:
        size = PIECE_BYTES
        if isinstance(board, LinkedBoard):
            size = min(size, (board.largest_message - _LINE_SLACK_BYTES) * 3 // 4)
        piece = base64.b64encode(self._wanted().data[self.offset : self.offset + size]).decode()
        answer = self._ask(board, "data", offset=self.offset, data=piece)
        self._advance(self._offset_in(answer))

    def _send_blobs(self, board: LinkedBoard) -> None:
        """A row of BLOBs, and what the board has of them."""
        data = self._wanted().data
        begun = at = self.offset
        while at < min(begun + _CHECK_BYTES, len(data)):
            piece = data[at : at + board.largest_blob]
            board.send_blob(self._owner, at, len(data), piece)
            at += len(piece)
            self._advance(at)
        there = self._offset_in(self._ask(board, "data", offset=0, data=""))
        if there < at:
            self.report.sent_bytes -= at - there
            self.offset = there
            self._send_command(board)  # A command has an answer that says what is wrong.

    def _have_it_fetched(self, board: Board) -> None:
        image = self._wanted()
        assert self._server is not None
        url = self._server.url(image, self._own_host())
        self._ask(board, "fetch", url=url, digest=image.digest)
        moved = time.monotonic()
        while True:
            if self._stop.wait(_POLL_S):
                raise StoppedError
            try:
                answer = self._ask(board, "data", offset=0, data="")
            except BoardError as error:
                if error.code != "slot_order":
                    raise
                break  # It is over, one way or the other.
            state = answer.get("fetch", "busy")
            if state not in ("busy", "ok"):
                self._refuse_fetched(state)
            before = self.offset
            self._advance(self._offset_in(answer))
            if self.offset > before:
                moved = time.monotonic()
            elif time.monotonic() - moved > NO_PROGRESS_S:
                raise DeliveryError("no_progress", f"{self.label}: the download does not go on")
        header = base64.b64encode(image.header).decode()
        answer = self._ask(board, "begin", data=header, digest=image.digest)
        if self._offset_in(answer) != len(image.data):
            self._refuse_fetched(answer.get("fetch", "unknown"))
        self._advance(len(image.data))

    def _refuse_fetched(self, code: str) -> None:
        raise DeliveryError(
            code, f"{self.label}: the download ended at {self.offset} bytes: {code}"
        )

    def _own_host(self) -> str:
        """This machine's address as the board sees it."""
        assert self._server is not None
        if not self._server.everywhere:
            return self._server.host
        listens = str(self.info.get("listen"))
        place = address.parse(listens) if re.match("(udp|tcp)://", listens) else None
        if place is None:
            raise DeliveryError(
                "unreachable",
                f"{self.label} listens on {listens}: say by --serve at which address of this "
                "machine it reaches HTTP",
            )
        return facing(place)

    # Two phases.

    def verify(self) -> None:
        """Have the board say once more that the image is there and verified."""
        if self._wanted().firmware:
            return  # Begun again it would start over.

        def look(board: Board) -> None:
            if self._begin(board) != len(self._wanted().data):
                raise DeliveryError("slot_not_ready", f"{self.label}: the image is not there")

        self._with_board(look)

    def arm(self) -> None:
        """The next restart runs the image; until then `drop` takes it back."""
        digest = self._wanted().digest
        self._with_board(lambda board: self._ask(board, "activate", digest=digest))
        self._tell("armed")

    def drop(self) -> None:
        """What was staged or armed is so no longer."""
        self._with_board(lambda board: self._ask(board, "abort"))
        self._holds = False
        self._tell("old")

    def restart(self) -> None:
        """Restart the board until it runs the image. Raises DeliveryError."""
        image = self._wanted()
        self.restarted_at = time.monotonic()
        for _ in range(_ATTEMPTS):
            try:
                self.info = self._with_board(
                    lambda board: board.reboot(max(self._patience_s, LEAST_BOOT_S))
                )
            except DeliveryError as error:
                if error.code != "refused":
                    raise
                self.info = self._with_board(lambda board: board.ask("info"))
            if self.runs(image):
                self._holds = False  # A board that restarts forgets who updated it.
                self._tell("running")
                return
            try:
                self.arm()  # Still so: the restart was lost.
            except DeliveryError as error:
                if error.code != "slot_not_ready":
                    raise
                break
        why = self.info.get("problem") or "it did not start it"
        self._tell("rolled_back")
        raise DeliveryError("rolled_back", f"{self.label} runs the old image again: {why}")

    def serve(self) -> None:
        """Wait until the board has its session to the next stage, if it has one.

        Raises:
            DeliveryError: `no_session`: it has none within the patience, at least LEAST_MEETING_S.
            StoppedError: others failed.
        """
        patience_s = max(self._patience_s, LEAST_MEETING_S)
        end = time.monotonic() + patience_s
        while self.info.get("next"):
            stats = self._with_board(lambda board: board.ask("stats"))
            if stats.get("next_up"):
                break
            if time.monotonic() > end:
                why = stats.get("next_error") or "ok"
                raise DeliveryError(
                    "no_session",
                    f"{self.label} has no session to its next stage after {patience_s:.0f} s"
                    + ("" if why == "ok" else f": {why}"),
                )
            if self._stop.wait(_SERVING_POLL_S):
                raise StoppedError
        self.served_at = time.monotonic()
