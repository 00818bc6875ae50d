"""Passwords, roles and their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.broker import users
from host.broker.users import Checker, UsersError
from tests.host.broker.brokers import cheap_user, password

PASSWORD = "correct horse battery"


def test_a_user_as_written_and_read(tmp_path: Path) -> None:
    file = tmp_path / "users"
    made = users.made("head", "node", PASSWORD)
    again = users.made("head", "node", PASSWORD)
    assert made.salt != again.salt
    assert made.hash != again.hash
    users.write(file, {"head": made, "boss": users.made("boss", "operator", PASSWORD)})
    assert file.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in file.read_text()
    read = users.read(file)
    assert list(read) == ["boss", "head"]
    assert read["head"] == made
    assert read["head"].has(PASSWORD.encode())
    assert not read["head"].has(b"correct horse batterx")


@pytest.mark.parametrize(
    ("name", "role", "secret", "why"),
    [
        ("a/b", "node", PASSWORD, "no name"),
        ("+", "node", PASSWORD, "no name"),
        ("", "node", PASSWORD, "no name"),
        ("x" * 33, "node", PASSWORD, "no name"),
        ("head", "king", PASSWORD, "no role"),
        ("head", "node", "short", "at least 8"),
        ("head", "node", "x" * 129, "128 bytes"),
    ],
)
def test_who_cannot_be_a_user(name: str, role: str, secret: str, why: str) -> None:
    with pytest.raises(UsersError, match=why):
        users.made(name, role, secret)


GOOD = "head:node:scrypt:1024:8:1:AAAAAAAAAAAAAAAAAAAAAA==:" + "A" * 43 + "="


@pytest.mark.parametrize(
    "text",
    [
        "head",
        GOOD.replace("scrypt", "md5"),
        GOOD.replace("head", "a/b"),
        GOOD.replace("node", "king"),
        GOOD.replace(":1024:", ":1000:"),
        GOOD.replace(":1024:", ":1073741824:"),
        GOOD.replace(":8:", ":0:"),
        GOOD.replace(":8:", ":100000:"),
        GOOD.replace("==", ""),
        GOOD[:-8] + "A===",
        GOOD + "\n" + GOOD,
        "\x00\xff",
    ],
)
def test_what_is_no_file_of_users(tmp_path: Path, text: str) -> None:
    file = tmp_path / "users"
    file.write_text(f"# people\n\n{text}\n", "latin-1")
    file.chmod(0o600)
    with pytest.raises(UsersError, match=r"line (3|4): not name:role"):
        users.read(file)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(GOOD)
    file.chmod(0o644)
    with pytest.raises(UsersError, match="chmod 600"):
        users.read(file)
    file.chmod(0o600)
    assert list(users.read(file)) == ["head"]
    assert users.read(tmp_path / "missing") == {}
    with pytest.raises(UsersError, match="cannot read"):
        users.read(tmp_path)


def test_a_password_that_was_right_is_known_until_its_user_changes() -> None:
    head = cheap_user("head", "node")
    checker = Checker({"head": head})
    right = password("head").encode()
    assert checker.known("head", right) is None
    assert checker.check("head", b"wrong") is None
    assert checker.known("head", b"wrong") is None
    assert checker.check("head", right) is head
    assert checker.known("head", right) is head
    assert checker.known("head", b"wrong") is None
    assert checker.check("nobody", right) is None
    same = cheap_user("head", "node")  # Another salt.
    assert checker.replace({"head": same, "tail": cheap_user("tail", "node")}) == ["head"]
    assert checker.known("head", right) is None
    assert checker.check("head", right) is same
    assert checker.replace({"head": same}) == ["tail"]
    assert checker.known("head", right) is same


def test_a_name_that_nobody_has_has_no_password() -> None:
    checker = Checker({})
    for guess in (b"", bytes(32)):
        assert checker.check("nobody", guess) is None
        assert checker.check("", guess) is None
