"""The broker's certificate and key, checked before anybody connects."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from models.errors import TinysplitError

_MAX_FILE_BYTES = 1 << 20
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
