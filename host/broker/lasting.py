"""What survives the broker, in a file: retained messages, and the wills of who was connected."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from host.broker.broker import Lasting
from host.broker.packets import Message
from models.errors import TinysplitError

_VERSION = 1
_MAX_FILE_BYTES = 64 << 20


class LastingError(TinysplitError):
    """A file that holds something else."""


def encode(lasting: Lasting) -> bytes:
    content = {
        "version": _VERSION,
        "retained": [_to_json(message) for message in lasting.retained],
        "wills": [
            {"user": user, "client_id": client_id, "keepalive_s": keepalive_s, **_to_json(will)}
            for (user, client_id), will, keepalive_s in lasting.wills
        ],
    }
    return json.dumps(content).encode()


def _to_json(message: Message) -> dict[str, Any]:
    payload = base64.b64encode(message.payload).decode()
    return {
        "topic": message.topic,
        "payload": payload,
        "qos": message.qos,
        "retain": message.retain,
    }


def read(path: Path) -> Lasting:
    """What was written last; nothing if the file does not exist.

    Raises:
        LastingError: it cannot be read, or is none of ours.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        return Lasting()
    except OSError as error:
        raise LastingError(f"cannot read {path}: {error.strerror}") from error
    try:
        content = json.loads(data)
        if content["version"] != _VERSION:
            raise LastingError(f"{path} was written by another version of tinysplit; remove it")
        return Lasting(
            tuple(_from_json(one) for one in content["retained"]),
            tuple(
                ((str(one["user"]), str(one["client_id"])), _from_json(one), _keepalive(one))
                for one in content["wills"]
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LastingError(
            f"{path} holds no retained messages; remove it to start without any"
        ) from error


def _keepalive(said: dict[str, Any]) -> int:
    keepalive_s = said["keepalive_s"]
    if not isinstance(keepalive_s, int) or not 0 <= keepalive_s <= 0xFFFF:
        raise ValueError("no keep-alive")
    return keepalive_s


def _from_json(said: dict[str, Any]) -> Message:
    topic, qos, retain = said["topic"], said["qos"], said["retain"]
    if not isinstance(topic, str) or qos not in (0, 1, 2) or not isinstance(retain, bool):
        raise ValueError("no message")
    return Message(topic, base64.b64decode(said["payload"], validate=True), qos, retain)


def write(path: Path, data: bytes) -> None:
    """Replace the file so that a power cut leaves the old one or the new one.

    Raises:
        OSError: it could not be written; the old one is there.
    """
    temporary = path.with_name(f".{path.name}.new")
    handle = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
