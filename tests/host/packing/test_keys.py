"""Key files: private ones stay private, nothing is overwritten, other kinds are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from host.cli import main
from host.packing import keys
from host.packing.keys import KeyFileError

DIGEST = hashlib.sha256(b"an image").digest()


def test_a_pair_that_signs_and_verifies(tmp_path: Path) -> None:
    made = keys.new(tmp_path / "k")
    loaded = keys.load(tmp_path / "k")
    public = keys.load_public(tmp_path / "k.pub")
    assert made.public == loaded.public == public
    assert len(public.point) == 65
    signature = loaded.sign(DIGEST)
    assert len(signature) == 64
    assert public.verify(DIGEST, signature)
    assert not public.verify(DIGEST, bytes(64))
    assert not public.verify(DIGEST, signature[:-1] + bytes([signature[-1] ^ 1]))
    assert not public.verify(hashlib.sha256(b"another").digest(), signature)
    assert not keys.new(tmp_path / "l").public.verify(DIGEST, signature)


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    keys.new(tmp_path / "k")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    (tmp_path / "k").chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.load(tmp_path / "k")


@pytest.mark.parametrize("name", ["k", "k.pub"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(KeyFileError, match="exists already"):
        keys.new(tmp_path / "k")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_no_folder_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="cannot write"):
        keys.new(tmp_path / "file" / "k")


def pem(path: Path, key: object, password: bytes | None = None) -> Path:
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    locked = (
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password)
    )
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    )
    path.chmod(0o600)
    return path


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        keys.load(tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(KeyFileError, match="no private key"):
        keys.load(tmp_path / "text")
    with pytest.raises(KeyFileError, match="no public key"):
        keys.load_public(tmp_path / "text")
    locked = pem(tmp_path / "locked", ec.generate_private_key(ec.SECP256R1()), b"secret")
    with pytest.raises(KeyFileError, match="passphrase"):
        keys.load(locked)
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(KeyFileError, match="another kind"):
            keys.load(pem(tmp_path / "other", key))
    keys.new(tmp_path / "k")
    with pytest.raises(KeyFileError, match="no public key"):
        keys.load_public(tmp_path / "k")
    with pytest.raises(KeyFileError, match="holds the public key"):
        keys.load(tmp_path / "k.pub")


def test_the_command(invoke: object, tmp_path: Path) -> None:
    assert callable(invoke)
    done: Result = invoke(main, "keys", "new", tmp_path / "k")
    assert done.exit_code == 0
    assert keys.load(tmp_path / "k").public.fingerprint in done.stdout
    secret = (tmp_path / "k").read_text().splitlines()[1]
    assert secret not in done.output
    again: Result = invoke(main, "keys", "new", tmp_path / "k")
    assert again.exit_code == 1
    assert "never overwritten" in again.stderr
    assert "Traceback" not in again.stderr
