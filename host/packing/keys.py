"""The key pair that images are signed with: P-256, the private half readable by its owner only.

A board holds the public half as an uncompressed point (firmware/core/IMAGE.md section 4).
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from models.errors import TinysplitError

_HALF_BYTES = 32
_MAX_FILE_BYTES = 10_000


class KeyFileError(TinysplitError):
    """A key file that is missing, unreadable, open to others, or in the way."""


@dataclass(frozen=True)
class PublicKey:
    """What a board holds: 04, X, Y; 65 bytes."""

    point: bytes

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of SHA-256 over the point, to tell keys apart."""
        return hashlib.sha256(self.point).hexdigest()[:16]

    def verify(self, digest: bytes, signature: bytes) -> bool:
        """Whether r and s (32 bytes each, big-endian) sign `digest` (SHA-256)."""
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.point)
        try:
            key.verify(utils.encode_dss_signature(r, s), digest, _algorithm())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """Signs digests; `public` is what boards need."""

    sign: Callable[[bytes], bytes]
    public: PublicKey


def _algorithm() -> ec.ECDSA:
    # RFC 6979: the same image signed twice has the same bytes, and needs no random numbers.
    return ec.ECDSA(utils.Prehashed(hashes.SHA256()), deterministic_signing=True)


def from_key(key: ec.EllipticCurvePrivateKey) -> PrivateKey:
    """A P-256 key of `cryptography` as the key that signs images."""

    def sign(digest: bytes) -> bytes:
        r, s = utils.decode_dss_signature(key.sign(digest, _algorithm()))
        return r.to_bytes(_HALF_BYTES, "big") + s.to_bytes(_HALF_BYTES, "big")

    return PrivateKey(sign, _public(key.public_key()))


def _public(key: ec.EllipticCurvePublicKey) -> PublicKey:
    encoding = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    return PublicKey(key.public_bytes(*encoding))


def public_path(path: Path) -> Path:
    """Where the public half of the key in `path` lies."""
    return path.with_name(f"{path.name}.pub")


def new(path: Path) -> PrivateKey:
    """Make a key pair: `path` (PEM, readable by its owner only) and `path`.pub (PEM).

    Raises:
        KeyFileError: one of the files exists, or cannot be written; then neither was made.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    made: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content, mode in ((path, private, 0o600), (public_path(path), public, 0o644)):
            handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
            made.append(file)
            with os.fdopen(handle, "wb") as sink:
                sink.write(content)
                sink.flush()
                os.fsync(sink.fileno())
    except OSError as error:
        for file in made:
            file.unlink(missing_ok=True)
        if error.filename in (str(path), str(public_path(path))) and error.errno == errno.EEXIST:
            raise KeyFileError(
                f"{error.filename} exists already, and keys are never overwritten; "
                "give another name"
            ) from error
        raise KeyFileError(f"cannot write {error.filename or path}: {error.strerror}") from error
    return from_key(key)


def load(path: Path) -> PrivateKey:
    """The key pair whose private half is in `path`.

    Raises:
        KeyFileError: not there, readable by others, or no unencrypted P-256 key in PEM.
    """
    data = _read(path)
    if b"-----BEGIN PUBLIC KEY-----" in data:
        raise KeyFileError(f"{path} holds the public key; name the private one beside it")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise KeyFileError(f"{path} can be read by others; make it yours alone: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(
            f"{path} holds no private key in PEM, or one with a passphrase; "
            "`tinysplit keys new` makes one"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise KeyFileError(f"{path} holds a key of another kind; images are signed with P-256")
    return from_key(key)


def load_public(path: Path) -> PublicKey:
    """The public key in `path`: PEM.

    Raises:
        KeyFileError: not there, or no public P-256 key.
    """
    try:
        key = serialization.load_pem_public_key(_read(path))
    except ValueError as error:
        raise KeyFileError(f"{path} holds no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise KeyFileError(f"{path} holds a key of another kind; images are signed with P-256")
    return _public(key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error
