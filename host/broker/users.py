"""Users of the broker: names, roles, and passwords as salted scrypt hashes, in a file of mode 0600.

A line each: name:role:scrypt:N:r:p:salt:hash, salt and hash in Base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from host.boards.address import is_node
from host.broker.access import ROLES
from models.errors import TinysplitError
from partitioner.output import whole_file

SHORTEST, LONGEST_BYTES = 8, 128  # Of a password; the setting mqtt_password has no more.
_MAX_FILE_BYTES = 1 << 20
# RFC 7914, section 2, and its paper's parameters for interactive logins: 16 MiB, some 40 ms.
_N, _R, _P = 1 << 14, 8, 1
_SALT_BYTES, _HASH_BYTES = 16, 32
_MOST_MEMORY = 64 << 20


class UsersError(TinysplitError):
    """A file of users that cannot be used, or a user who cannot be added."""


@dataclass(frozen=True)
class User:
    name: str
    role: str
    cost: tuple[int, int, int]
    salt: bytes
    hash: bytes

    def has(self, password: bytes) -> bool:
        """Whether this is the password. Takes a while, on purpose."""
        return hmac.compare_digest(_hash(password, self.salt, self.cost), self.hash)


def _hash(password: bytes, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    return hashlib.scrypt(
        password, salt=salt, n=n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=_HASH_BYTES
    )


def made(name: str, role: str, password: str) -> User:
    """A new user.

    Raises:
        UsersError: the name, the role or the password will not do.
    """
    if not is_node(name):
        raise UsersError(
            f"{name[:40]!r} is no name for a user: 1 to 32 letters, digits, and any of . _ -"
        )
    if role not in ROLES:
        raise UsersError(f"{role!r} is no role: {' or '.join(ROLES)}")
    if len(password) < SHORTEST or len(password.encode()) > LONGEST_BYTES:
        raise UsersError(f"a password has at least {SHORTEST} characters and {LONGEST_BYTES} bytes")
    cost, salt = (_N, _R, _P), secrets.token_bytes(_SALT_BYTES)
    return User(name, role, cost, salt, _hash(password.encode(), salt, cost))


def read(path: Path) -> dict[str, User]:
    """The users in a file, none if it does not exist.

    Raises:
        UsersError: unreadable, open to others, or not as written by `write`.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsersError(f"cannot read {path}: {error.strerror}") from error
    if os.name == "posix" and mode & 0o077:
        raise UsersError(f"{path} can be read by others; make it yours alone: chmod 600 {path}")
    if len(data) > _MAX_FILE_BYTES:
        raise UsersError(f"{path} is larger than {_MAX_FILE_BYTES:,} bytes: no file of users")
    found = {}
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            user = _parse(line)
            if user is None or user.name in found:
                raise UsersError(
                    f"{path}, line {number}: not name:role:scrypt:N:r:p:salt:hash, or twice the "
                    "same name; `tinysplit broker --add-user` writes such lines"
                )
            found[user.name] = user
    return found


def _parse(line: str) -> User | None:
    parts = line.strip().split(":")
    if len(parts) != 8 or parts[2] != "scrypt":
        return None
    name, role, _, *cost, salt, digest = parts
    try:
        n, r, p = (int(part) for part in cost)
        user = User(
            *(name, role, (n, r, p)),
            base64.b64decode(salt, validate=True),
            base64.b64decode(digest, validate=True),
        )
    except (ValueError, binascii.Error):
        return None
    sound = (
        is_node(name)
        and role in ROLES
        and n in {1 << power for power in range(10, 19)}
        and 1 <= r <= 32
        and 1 <= p <= 16
        and 128 * n * r < _MOST_MEMORY
        and len(user.salt) >= 8
        and len(user.hash) == _HASH_BYTES
    )
    return user if sound else None


def write(path: Path, users: dict[str, User]) -> None:
    """Replace the file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    lines = []
    for user in sorted(users.values(), key=lambda user: user.name):
        encoded = [base64.b64encode(part).decode() for part in (user.salt, user.hash)]
        lines.append(":".join((user.name, user.role, "scrypt", *map(str, user.cost), *encoded)))
    with whole_file(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_text("".join(f"{line}\n" for line in lines), "ascii")


class Checker:
    """Passwords against users. One that was right is known again at once, until the user changes:
    a thousand boards that come back together need no thousand hashes.

    What is remembered is an HMAC with a key of this process, not the password.
    """

    def __init__(self, users: dict[str, User]) -> None:
        self.users = users
        self._key = secrets.token_bytes(32)
        self._right: dict[str, tuple[User, bytes]] = {}
        # A name nobody has takes as long as a wrong password.
        blank = bytes(_SALT_BYTES)
        self._nobody = User("", ROLES[0], (_N, _R, _P), blank, bytes(_HASH_BYTES))

    def known(self, name: str, password: bytes) -> User | None:
        """The user, if this very password was right before; at once."""
        user, digest = self._right.get(name, (None, b""))
        if user is None or self.users.get(name) is not user:
            return None
        return user if hmac.compare_digest(digest, self._digest(password)) else None

    def check(self, name: str, password: bytes) -> User | None:
        """The user whose password this is. Takes a while; for a thread of its own."""
        user = self.users.get(name, self._nobody)
        if not user.has(password) or user is self._nobody:
            return None
        self._right[name] = user, self._digest(password)
        return user

    def replace(self, users: dict[str, User]) -> list[str]:
        """Other users from now on. Returns the names of those that were changed or removed."""
        gone = [name for name, user in self.users.items() if users.get(name) != user]
        kept = {name: self.users[name] for name in users if users[name] == self.users.get(name)}
        self.users = {**users, **kept}  # The same objects: what is known of them stays.
        for name in gone:
            self._right.pop(name, None)
        return gone

    def _digest(self, password: bytes) -> bytes:
        return hmac.digest(self._key, password, "sha256")
