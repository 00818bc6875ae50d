"""TLS: the broker's certificate and key, checked before anybody connects, and a connection's bytes.

asyncio's own TLS is not used: it keeps a quarter of a MiB for every connection, and for seconds
after the connection has ended, which a flood of handshakes multiplies.
"""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from models.errors import TinysplitError

_MAX_FILE_BYTES = 1 << 20
_READ_BYTES = 1 << 16
SOON_DAYS = 30


class CertificateError(TinysplitError):
    """A certificate or a key that cannot be used."""


def context(certificate: Path, key: Path) -> tuple[ssl.SSLContext, x509.Certificate]:
    """TLS 1.2 or newer with the certificate (PEM, with those that link it to its authority behind
    it) and its key (PEM, readable by its owner only). Returns the broker's own certificate, too.

    Raises:
        CertificateError: missing, no PEM, expired, not valid yet, or not of each other.
    """
    try:
        own = x509.load_pem_x509_certificates(_read(certificate))[0]
    except ValueError as error:
        raise CertificateError(f"{certificate} holds no certificate in PEM") from error
    data = _read(key)
    if os.name == "posix" and key.stat().st_mode & 0o077:
        raise CertificateError(f"{key} can be read by others; make it yours alone: chmod 600 {key}")
    try:
        private = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise CertificateError(
            f"{key} holds no private key in PEM, or one with a passphrase"
        ) from error
    formats = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*formats) != own.public_key().public_bytes(*formats):
        raise CertificateError(f"the key {key} does not belong to the certificate {certificate}")
    now = datetime.datetime.now(datetime.timezone.utc)
    if now > own.not_valid_after_utc:
        raise CertificateError(
            f"the certificate {certificate} expired on {own.not_valid_after_utc:%Y-%m-%d}; "
            "get a new one"
        )
    if now < own.not_valid_before_utc:
        raise CertificateError(
            f"the certificate {certificate} is valid from {own.not_valid_before_utc:%Y-%m-%d} on; "
            "is the clock right?"
        )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    try:
        made.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"{certificate} and {key} cannot be used: {error}") from error
    return made, own


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error


def days_left(certificate: x509.Certificate) -> int:
    """How many days a certificate is still good for."""
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    return left.days


class Channel:
    """The broker's end of a TLS connection, without I/O: bytes of the network to and from those of
    the protocol. After each call `outgoing` is what belongs on the network."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._secure = False

    def receive(self, data: bytes) -> bytes:
        """What came from the network.

        Raises:
            ssl.SSLError: it is no TLS, or the other end does not trust this one.
        """
        self._incoming.write(data)
        pieces = []
        try:
            if not self._secure:
                self._object.do_handshake()
                self._secure = True
            while piece := self._object.read(_READ_BYTES):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        return b"".join(pieces)

    def send(self, data: bytes) -> None:
        """Once there was something to answer to: the handshake is over then."""
        view = memoryview(data)
        while view:
            view = view[self._object.write(view) :]

    def outgoing(self) -> bytes:
        return self._outgoing.read()
