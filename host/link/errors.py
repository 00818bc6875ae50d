"""Every error the link can report, by number, as the specification's section 11 lists them.

Theory of operation. A number from the wire becomes an exception through one table,
`error_for`; a number nobody has assigned is an error like any other. The class says whose
doing it is, so that a caller can tell apart what to fix:

- `LocalMistakeError`: this program called the link wrongly, or must wait. Never on the wire.
- `PeerMistakeError`: what the peer sent contradicts the specification.
- `RefusalError`: the peer is healthy and will not talk to this node as it is configured.
- `LinkDownError`: there is no session, or it ended.
- `UndeliveredError`: the session stands, this one message or inference failed.

A damaged, late or foreign frame is none of these: it is dropped and counted.
"""

from __future__ import annotations

import enum
from functools import cache

from models.errors import TinysplitError


class ErrorCode(enum.IntEnum):
    """SPEC section 11. Stable numbers."""

    OK = 0
    NO_PEER = 1
    PEER_LOST = 2
    VERSION_OLDER = 3
    VERSION_NEWER = 4
    BUNDLE_MISMATCH = 5
    STAGE_MISMATCH = 6
    BUSY = 7
    CODEC_MISMATCH = 8
    MTU_TOO_SMALL = 9
    TOO_LARGE = 10
    DEADLINE = 11
    INTEGRITY = 12
    REPLACED = 13
    RESET = 14
    CLOSED = 15
    UNSUPPORTED = 16
    MALFORMED = 17
    NO_SLOT = 18
    INVOKE_FAILED = 19
    REFUSED = 20
    CANCELLED = 21
    SEND_FAILED = 22
    DUPLICATE = 23
    INVALID = 24
    WOULD_BLOCK = 25
    NO_MEMORY = 26


class LinkError(TinysplitError):
    """An error of the link. `code` is the number on the wire, `name` its name in the table."""

    code: int = ErrorCode.OK
    sentence = "the link failed"

    def __init__(self, text: str = "", *, code: int | None = None, detail: int = 0) -> None:
        if code is not None:
            self.code = code
        self.detail = detail
        super().__init__(f"{self.name}: {text or self.sentence}")

    @property
    def name(self) -> str:
        return code_name(self.code)


class LocalMistakeError(LinkError):
    """This program used the link wrongly, or must try again later."""


class PeerMistakeError(LinkError):
    """The peer broke the protocol."""


class RefusalError(LinkError):
    """The peer answered HELLO with a refusal that waiting alone will not change, except `busy`."""


class LinkDownError(LinkError):
    """There is no session with the peer, or it ended."""


class UndeliveredError(LinkError):
    """One message or inference failed; the session stands."""


class NoPeerError(LinkDownError):
    code = ErrorCode.NO_PEER
    sentence = "no answer from the peer; is it running, and is the address right?"


class PeerLostError(LinkDownError):
    code = ErrorCode.PEER_LOST
    sentence = "nothing was heard from the peer for the idle timeout"


class VersionOlderError(RefusalError):
    code = ErrorCode.VERSION_OLDER
    sentence = "the other end speaks an older link protocol; update it"


class VersionNewerError(RefusalError):
    code = ErrorCode.VERSION_NEWER
    sentence = "the other end speaks a newer link protocol; update this one"


class BundleMismatchError(RefusalError):
    code = ErrorCode.BUNDLE_MISMATCH
    sentence = "the two ends hold different bundles; load the same bundle on both"


class StageMismatchError(RefusalError):
    code = ErrorCode.STAGE_MISMATCH
    sentence = "the two ends are not neighbours in the chain; check roles and stages"


class BusyError(RefusalError):
    code = ErrorCode.BUSY
    sentence = "the peer has no free session; try again later"


class CodecMismatchError(RefusalError):
    code = ErrorCode.CODEC_MISMATCH
    sentence = "the two ends have no codec in common, or another than the agreed one was used"


class MtuTooSmallError(RefusalError):
    code = ErrorCode.MTU_TOO_SMALL
    sentence = "the link's frames are smaller than 128 bytes"


class TooLargeError(UndeliveredError):
    code = ErrorCode.TOO_LARGE
    sentence = "the message is larger than the receiver's buffer"


class DeadlineError(UndeliveredError):
    code = ErrorCode.DEADLINE
    sentence = "not finished in time"


class IntegrityError(UndeliveredError):
    code = ErrorCode.INTEGRITY
    sentence = "the message arrived damaged three times"


class ReplacedError(LinkDownError):
    code = ErrorCode.REPLACED
    sentence = "the peer opened a new session"


class ResetError(LinkDownError):
    code = ErrorCode.RESET
    sentence = "the peer does not know this session; it probably restarted"


class ClosedError(LinkDownError):
    code = ErrorCode.CLOSED
    sentence = "the session was closed"


class UnsupportedError(UndeliveredError):
    code = ErrorCode.UNSUPPORTED
    sentence = "the peer does not serve this kind of message"


class MalformedError(PeerMistakeError):
    code = ErrorCode.MALFORMED
    sentence = "fields of a message contradict each other"


class NoSlotError(LocalMistakeError):
    code = ErrorCode.NO_SLOT
    sentence = "the queue of unsent messages is full; wait for one to finish"


class InvokeFailedError(UndeliveredError):
    code = ErrorCode.INVOKE_FAILED
    sentence = "the engine of the peer failed"


class RefusedError(RefusalError):
    code = ErrorCode.REFUSED
    sentence = "the node does not serve: its self-test failed or it holds no model"


class CancelledError(UndeliveredError):
    code = ErrorCode.CANCELLED
    sentence = "given up by the application"


class SendFailedError(LinkDownError):
    code = ErrorCode.SEND_FAILED
    sentence = "the transport reported a hard error"


class DuplicateError(UndeliveredError):
    code = ErrorCode.DUPLICATE
    sentence = "this inference id is already in progress"


class InvalidError(LocalMistakeError):
    code = ErrorCode.INVALID
    sentence = "the call's arguments are wrong"


class WouldBlockError(LocalMistakeError):
    code = ErrorCode.WOULD_BLOCK
    sentence = "try again later"


class NoMemoryError(LocalMistakeError):
    code = ErrorCode.NO_MEMORY
    sentence = "a buffer of the caller is too small"


_CLASSES: tuple[type[LinkError], ...] = (
    NoPeerError,
    PeerLostError,
    VersionOlderError,
    VersionNewerError,
    BundleMismatchError,
    StageMismatchError,
    BusyError,
    CodecMismatchError,
    MtuTooSmallError,
    TooLargeError,
    DeadlineError,
    IntegrityError,
    ReplacedError,
    ResetError,
    ClosedError,
    UnsupportedError,
    MalformedError,
    NoSlotError,
    InvokeFailedError,
    RefusedError,
    CancelledError,
    SendFailedError,
    DuplicateError,
    InvalidError,
    WouldBlockError,
    NoMemoryError,
)
ERRORS = {int(kind.code): kind for kind in _CLASSES}


@cache
def code_name(code: int) -> str:
    """The table's name of a code; `error 27` or `private error 0x8001` if it has none."""
    try:
        return ErrorCode(code).name.lower()
    except ValueError:
        return f"private error {code:#06x}" if code >= 0x8000 else f"error {code}"


def error_for(code: int, text: str = "", *, detail: int = 0) -> LinkError:
    """The exception of a code from the wire. Unassigned codes give a plain `UndeliveredError`."""
    kind = ERRORS.get(code, UndeliveredError)
    return kind(text, code=code, detail=detail)
