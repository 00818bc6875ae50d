"""Stands for `qemu-system-xtensa -M esp32s3` in tests: takes its command line and its files apart,
and runs a real virtual board with the stage found in the flash behind the serial port it was
given. What it found is written as JSON to the file in FAKE_QEMU_REPORT.

The user network is played by rewriting addresses: the guest is 10.0.2.15, this machine 10.0.2.2.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from partitioner import child, image

MACHINES = "Supported machines are:\nesp32s3              Espressif ESP32S3 machine\n"


def options(argv: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in zip(argv[::2], argv[1::2], strict=True):
        assert name.startswith("-"), name
        found.setdefault(name, []).append(value)
    return found


def pairs(text: str) -> dict[str, str]:
    """`a=b,c=d` as QEMU reads it: a doubled comma is a comma."""
    parts = re.split(r"(?<!,),(?!,)", text)
    return {k: v.replace(",,", ",") for k, _, v in (part.partition("=") for part in parts)}


def partitions(flash: bytes) -> dict[str, tuple[int, int]]:
    found = {}
    for at in range(0x8000, 0x9000, 32):
        magic, _, _, offset, size, label, _ = struct.unpack("<2sBBII16sI", flash[at : at + 32])
        if magic != b"\xaa\x50":
            break
        found[label.rstrip(b"\0").decode()] = offset, size
    return found


def main() -> None:
    if sys.argv[1:] == ["-machine", "help"]:
        sys.stdout.write(os.environ.get("FAKE_QEMU_MACHINES", MACHINES))
        return
    if died := os.environ.get("FAKE_QEMU_DIES"):
        sys.exit(f"qemu-system-xtensa: {died}")
    given = options(sys.argv[1:])
    drives = [pairs(text) for text in given["-drive"]]
    flash = Path(next(d["file"] for d in drives if d.get("if") == "mtd")).read_bytes()
    efuse = Path(next(d["file"] for d in drives if d.get("id") == "efuse")).read_bytes()
    table = partitions(flash)
    start, size = table["model_0"]
    length = struct.unpack_from("<I", flash, start + 8)[0]
    assert length <= size
    stage = image.decode(flash[start : start + length], None)
    assert stage.manifest is not None
    report = {
        "options": given,
        "flash_bytes": len(flash),
        "flash_mode": flash[2],
        "bootloader_hash_holds": hashlib.sha256(flash[:48]).digest() == flash[48:80],
        "application": flash[0x20000:0x20004].decode("latin-1"),
        "mac": efuse[24:30][::-1].hex(),
        "efuse_bytes": len(efuse),
        "stage": stage.stage,
        "bundle": stage.manifest.bundle.hex(),
        "pid": os.getpid(),
    }
    Path(os.environ["FAKE_QEMU_REPORT"]).write_text(json.dumps(report))
    forward = re.search(r"hostfwd=udp:127\.0\.0\.1:(\d+)-:4000", given["-nic"][0])
    assert forward is not None
    port = forward[1]
    command = [*child.command("host.cli", "main"), "board", os.environ["FAKE_QEMU_BUNDLE"]]
    command += ["--stage", str(stage.stage), "--listen", f"udp://127.0.0.1:{port}"]
    if stage.stage < stage.stage_count - 1:
        command += ["--next", "udp://127.0.0.1:9"]
    board = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert board.stdin is not None
    assert board.stdout is not None
    signal.signal(signal.SIGTERM, lambda *_: (board.kill(), sys.exit(0)))
    console = socket.socket(fileno=int(pairs(given["-chardev"][0])["fd"]))
    console.sendall(b"ESP-ROM:esp32s3-20210327\r\nI (120) boot: ESP-IDF v5.5 2nd stage\r\n")
    if os.environ.get("FAKE_QEMU_HANGS"):
        board.kill()
        board.wait()
        signal.pause()
    inward = [
        (rb"://10\.0\.2\.2:", b"://127.0.0.1:"),
        (rb"://0\.0\.0\.0:4000", b"://127.0.0.1:" + port.encode()),
    ]
    outward = [
        (rb"://127\.0\.0\.1:" + port.encode(), b"://10.0.2.15:4000"),
        (rb'"kind":"virtual"', b'"kind":"emulated"'),
    ]
    held = {"in": b"", "out": b""}
    while True:
        for ready in select.select([console, board.stdout], [], [])[0]:
            way, rules = ("in", inward) if ready is console else ("out", outward)
            data = console.recv(65536) if ready is console else os.read(ready.fileno(), 65536)
            if not data:
                board.kill()
                return
            *lines, held[way] = (held[way] + data).split(b"\n")
            for line in lines:
                for pattern, text in rules:
                    line = re.sub(pattern, text, line)
                if way == "in":
                    os.write(board.stdin.fileno(), line + b"\n")
                else:
                    console.sendall(line + b"\n")


if __name__ == "__main__":
    main()
