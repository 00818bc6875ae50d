"""The control plane's messages: one JSON object a line, checked against one schema at both ends.

Pure: bytes in, commands out; results in, bytes out. `control.schema.json` documents every
command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from models.errors import TinysplitError

MAX_LINE_BYTES = 1 << 20
SECRETS = ("wifi_password", "espnow_pmk", "espnow_lmk", "ble_passkey", "mqtt_password")
_MOST_QUOTED = 40  # Characters of a value that is wrong.
_LONGEST_MESSAGE = 1000
COMMANDS = (
    *("info", "configure", "run", "stats", "abort", "reboot", "selftest"),
    *("profile", "telemetry", "public_key"),
    *("update_begin", "update_data", "update_finish", "update_activate", "update_abort"),
    *("update_fetch", "update_release"),
)

_ENVELOPE = ("id", "cmd", "boot", "after")


class ControlError(TinysplitError):
    """A command that was refused. `code` is the name in the reply."""

    def __init__(self, code: str, message: str, command_id: int | str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.command_id = command_id


@dataclass(frozen=True)
class Command:
    """A command that follows the schema; `fields` are those beside id, cmd, boot and after."""

    id: int | str
    name: str
    fields: dict[str, Any]
    boot: str | None = None
    after: int | None = None


def too_long() -> ControlError:
    """The refusal of a command that is longer than one may be."""
    return ControlError("too_long", f"a command longer than {MAX_LINE_BYTES} bytes")


class Lines:
    """Bytes of a serial line or socket in, whole lines out. Overlong lines are dropped whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines completed by `data`, without their ends, empty ones left out.

        Raises:
            ControlError: a line longer than MAX_LINE_BYTES; what follows it is still read.
        """
        self._buffer += data
        *complete, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        if self._skipping and complete:
            complete, self._skipping = complete[1:], False
        if len(self._buffer) > MAX_LINE_BYTES:
            self._buffer.clear()
            already, self._skipping = self._skipping, True
            if not already:
                raise too_long()
        return [line.strip() for line in complete if line.strip()]


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of commands, replies and events."""
    path = Path(__file__).with_name("control.schema.json")
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema()["$defs"]})


def _check(content: Any, name: str) -> str | None:
    try:
        worst = jsonschema.exceptions.best_match(_validator(name).iter_errors(content))
        if worst is None:
            return None
        where = "/".join(str(p) for p in worst.absolute_path)
        why = worst.message
        if worst.absolute_path and worst.absolute_path[-1] in SECRETS:
            # Its words would quote the value.
            rule = f"{worst.validator} {worst.validator_value}"
            return f"{where}: a secret (not shown) that does not fit {rule}"
        if worst.validator == "pattern" and "x-words" in worst.schema:
            why = f"{worst.instance!r} is not {worst.schema['x-words']}"
        if isinstance(worst.instance, str) and len(worst.instance) > _MOST_QUOTED:
            quoted = f"{worst.instance[:_MOST_QUOTED]!r}... ({len(worst.instance)} characters)"
            why = why.replace(repr(worst.instance), quoted)
        return f"{where}: {why[:160]}" if where else why[:160]
    except RecursionError:
        return "nested too deeply"


def _no_float(text: str) -> None:
    raise ValueError(f"{text[:20]}: numbers are whole here")


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")


def parse_command(line: bytes) -> Command:
    """The command in a line.

    Raises:
        ControlError: `malformed` (no command at all), `unknown_command`, `bad_command` (not as the
            schema says) or `too_long`, with the command's id where it has one.
    """
    if len(line) > MAX_LINE_BYTES:
        raise too_long()
    try:
        content = json.loads(line, parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as error:
        raise ControlError("malformed", f"not a line of JSON: {error}") from error
    if not isinstance(content, dict):
        raise ControlError("malformed", "a command is a JSON object")
    command_id = content.get("id")
    if not isinstance(command_id, int | str) or isinstance(command_id, bool):
        raise ControlError("malformed", "a command needs an id, a number or a string")
    if isinstance(command_id, str):
        command_id = command_id[:64]
    name = content.get("cmd")
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise ControlError(
            "unknown_command", f"no command {str(name)[:40]!r}: one of {known}", command_id
        )
    problem = _check(content, name)
    if problem is not None:
        raise ControlError("bad_command", problem, command_id)
    fields = {key: value for key, value in content.items() if key not in _ENVELOPE}
    return Command(command_id, name, fields, content.get("boot"), content.get("after"))


def check_command(name: str, fields: dict[str, Any]) -> None:
    """What a board would say of a command before it looks at itself.

    Raises:
        ControlError: as `parse_command`.
    """
    parse_command(command(0, name, fields))


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as `configure` takes them.

    Raises:
        ControlError: `bad_setting`.
    """
    if any(isinstance(v, float) for v in settings.values()):
        raise ControlError("bad_setting", "numbers are whole here")
    problem = _check(settings, "settings")
    if problem is not None:
        raise ControlError("bad_setting", problem)
    return settings


def printable(text: str, most: int = 200) -> str:
    """One line for people and their terminals, whatever `text` is."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:most])
    return shown + "..." * (len(text) > most)


def masked(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are shown: of secrets, whether they are set."""
    return {name: bool(value) if name in SECRETS else value for name, value in settings.items()}


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def command(command_id: int | str, name: str, fields: dict[str, Any]) -> bytes:
    """The line of a command."""
    return _line({"id": command_id, "cmd": name, **fields})


def reply(command_id: int | str, result: dict[str, Any]) -> bytes:
    """The line of a reply that says ok."""
    return _line({"id": command_id, "ok": True, "result": result})


def refusal(error: ControlError, command_id: int | str | None = None) -> bytes:
    """The line of a reply that says why not."""
    chosen = error.command_id if command_id is None else command_id
    message = " ".join(str(error).split())[:_LONGEST_MESSAGE]
    return _line({"id": chosen, "ok": False, "error": {"code": error.code, "message": message}})


def with_count(line: bytes, count: int) -> bytes:
    """A reply that also says how many commands the board has taken."""
    return _line({**json.loads(line), "count": count})


def event(name: str, **fields: Any) -> bytes:
    """The line of an event."""
    return _line({"event": name, **fields})


def status(about: dict[str, Any] | None) -> bytes:
    """What a board's status is; None: it is offline, also as its last will."""
    return _line({"online": False} if about is None else {"online": True, **about})


def parse_answer(line: bytes) -> dict[str, Any]:
    """A reply or an event of a board.

    Raises:
        ControlError: `bad_reply`, if it is neither.
    """
    content = _read(line)
    kind = "event" if isinstance(content, dict) and "event" in content else "reply"
    return _valid(content, kind)


def parse_status(payload: bytes) -> dict[str, Any]:
    """A board's status.

    Raises:
        ControlError: `bad_reply`, if it is none.
    """
    return _valid(_read(payload), "status")


def _read(data: bytes) -> Any:
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ControlError("bad_reply", f"the board sent no line of JSON: {error}") from error


def _valid(content: Any, kind: str) -> dict[str, Any]:
    problem = _check(content, kind)
    if problem is not None:
        raise ControlError("bad_reply", f"the board's {kind} is not valid: {problem}")
    checked: dict[str, Any] = content
    return checked
