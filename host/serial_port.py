"""Why a serial port cannot be used, in words for people: the same for all that open one."""

from __future__ import annotations

import errno

_PLUGGED_IN = "there is no such port; is {what} plugged in?"
_BUSY = ("busy", "another program uses the port; close it")
_NOT_ALLOWED = (
    "not_allowed",
    "permission denied; on Linux add yourself to the group dialout and log in again",
)
_NOT_A_PORT = ("not_a_port", "this is no serial port, or it does not have that speed")
_REFUSED = ("no_port", "nobody listens there")
_WHY = {
    errno.ENOENT: ("no_port", _PLUGGED_IN),
    errno.ENODEV: ("no_port", _PLUGGED_IN),
    errno.ENXIO: ("no_port", "nothing is plugged in there"),
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EBUSY: _BUSY,
    errno.EAGAIN: _BUSY,
    errno.ENOTTY: _NOT_A_PORT,
    errno.EISDIR: _NOT_A_PORT,
    errno.EINVAL: _NOT_A_PORT,
}


def why_unusable(error: Exception, what: str = "the board") -> tuple[str, str]:
    """What `error`, of opening a port, means, and what to do about it.

    pyserial does not always pass on the system's number: then its words are looked at.

    Args:
        what: should be at the port.

    Returns:
        `no_port`, `not_allowed`, `busy` or `not_a_port`, and a line.
    """
    number = getattr(error, "errno", None)
    text = " ".join(str(error).split())
    if number in _WHY:
        code, why = _WHY[number]
    elif number is None and "lock" in text:
        code, why = _BUSY
    elif number is None and "configure" in text:
        code, why = _NOT_A_PORT
    elif "refused" in text:
        code, why = _REFUSED
    else:
        return "no_port", text
    return code, why.format(what=what)
