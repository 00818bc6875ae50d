"""Why a port cannot be used: numbers where there are some, pyserial's words where not."""

from __future__ import annotations

import errno

import pytest
from serial import SerialException

from host.serial_port import why_unusable


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        (PermissionError(errno.EACCES, "x"), "not_allowed", "group dialout"),
        (PermissionError(errno.EPERM, "x"), "not_allowed", "group dialout"),
        (SerialException(errno.EBUSY, "x"), "busy", "another program uses the port; close it"),
        (SerialException("Could not exclusively lock port"), "busy", "another program"),
        (SerialException(errno.ENOENT, "x"), "no_port", "is the bridge plugged in?"),
        (OSError(errno.ENOTTY, "x"), "not_a_port", "no serial port"),
        (SerialException("could not configure port"), "not_a_port", "no serial port"),
        (SerialException("[Errno 111] Connection refused"), "no_port", "nobody listens there"),
        (SerialException("odd {thing}\nhere"), "no_port", "odd {thing} here"),
    ],
    ids=repr,
)
def test_what_it_says(error: Exception, code: str, why: str) -> None:
    found, text = why_unusable(error, "the bridge")
    assert found == code
    assert why in text
    assert "\n" not in text
