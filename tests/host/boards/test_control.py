"""Control lines: what is well-formed is understood, all else is refused by name."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.boards import control
from host.boards.address import AddressError, parse
from host.boards.control import ControlError, Lines


def test_the_schema_is_one_and_names_every_command() -> None:
    jsonschema.Draft202012Validator.check_schema(control.schema())
    named = {entry["$ref"].rsplit("/", 1)[1] for entry in control.schema()["oneOf"]}
    assert named == set(control.COMMANDS)
    assert all("description" in control.schema()["$defs"][name] for name in named)


def test_a_command_written_is_the_command_read() -> None:
    line = control.command("a1", "run", {"input": "tensors", "tensors": ["AAE="]})
    parsed = control.parse_command(line)
    assert (parsed.id, parsed.name) == ("a1", "run")
    assert parsed.fields == {"input": "tensors", "tensors": ["AAE="]}


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b"", "malformed", "no"),
        (b"{", "malformed", "not a line of JSON"),
        (b"[1]", "malformed", "JSON object"),
        (b"\xff\xfe", "malformed", "not a line of JSON"),
        (b'{"cmd":"info"}', "malformed", "needs an id"),
        (b'{"id":true,"cmd":"info"}', "malformed", "needs an id"),
        (b'{"id":1,"cmd":"explode"}', "unknown_command", "no command 'explode'"),
        (b'{"id":1,"cmd":["info"]}', "unknown_command", "no command"),
        (b'{"id":1,"cmd":"info","x":2}', "bad_command", "'x' was unexpected"),
        (b'{"id":1,"cmd":"run"}', "bad_command", "'input' is a required"),
        (b'{"id":1,"cmd":"run","input":"camera"}', "bad_command", "camera"),
        (b'{"id":1,"cmd":"configure","set":{"stage":-1}}', "bad_command", "set/stage"),
        (b'{"id":1,"cmd":"configure","set":{"wifi":1}}', "bad_command", "wifi"),
        (b"[" * 100_000, "malformed", "not a line of JSON"),
    ],
)
def test_bad_commands(line: bytes, code: str, message: str) -> None:
    with pytest.raises(ControlError, match=message) as refused:
        control.parse_command(line)
    assert refused.value.code == code
    answer = control.parse_answer(control.refusal(refused.value))
    assert answer["error"]["code"] == code


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_refused(line: bytes) -> None:
    try:
        control.parse_command(line)
    except ControlError as error:
        assert json.loads(control.refusal(error))["ok"] is False  # noqa: PT017


def test_what_is_no_address_is_told_what_one_looks_like() -> None:
    line = b'{"id":1,"cmd":"configure","set":{"next":"192.168.4.1"}}'
    with pytest.raises(ControlError, match="is not an address: udp://"):
        control.parse_command(line)


@given(st.lists(st.binary(min_size=1, max_size=30)), st.integers(1, 7))
def test_lines_do_not_depend_on_how_bytes_arrive(pieces: list[bytes], size: int) -> None:
    data = b"\n".join(piece.replace(b"\n", b"") for piece in pieces) + b"\n"
    whole = Lines().feed(data)
    lines, found = Lines(), []
    for at in range(0, len(data), size):
        found += lines.feed(data[at : at + size])
    assert found == whole


def test_an_overlong_line_is_refused_once_and_the_next_is_read() -> None:
    lines = Lines()
    with pytest.raises(ControlError, match="longer than"):
        lines.feed(b"x" * (control.MAX_LINE_BYTES + 1))
    assert lines.feed(b"x" * 50_000) == []
    assert lines.feed(b"end\nnext\n") == [b"next"]


@pytest.mark.parametrize("text", ["udp://127.0.0.1:0", "tcp://[::1]:4000", "udp://10.1.2.3:65535"])
def test_addresses_are_read_and_written_alike(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "udp://", "ftp://1.2.3.4:5", "udp://localhost:1", "udp://1.2.3.4:99999", "tcp://::1:1"],
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(AddressError, match="is no address"):
        parse(text)
