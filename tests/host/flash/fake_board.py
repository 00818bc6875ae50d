"""An ESP32-S3 at its boot loader, on a TCP socket: what esptool needs of the ROM and of its stub.

The serial protocol is Espressif's ("Serial Protocol", esptool's documentation). The flash is NOR:
erasing a sector sets ones, programming clears them. Nothing else of a board is here: no reset, no
timing, no eFuse that esptool does not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

SECTOR = 4096
ESP32S3, ESP32C3 = 9, 5
SYNC_WORD = b"\x07\x07\x12\x20" + b"\x55" * 32
SPI = 0x60002000  # SPI1 of an ESP32-S3
EFUSE_BLOCK1 = 0x60007044
MAC = "34:85:18:00:00:2a"
_USR = 1 << 18
OK, FAILED = b"\0\0", b"\x01\x05"


@dataclass
class FakeBoard:
    """`url` is its port. What goes wrong is said by the fields after `psram`."""

    flash_bytes: int = 8 << 20
    chip: int = ESP32S3
    psram: int = 1  # eFuse PSRAM_CAP: 8 MB
    flags: int = 0  # of GET_SECURITY_INFO
    deaf: bool = False
    sticky: int | None = None  # A byte of the flash whose bits cannot be cleared.
    unplug_at: int | None = None  # The connection ends when this address is written,
    silent_at: int | None = None  # or answers stop.
    on_program: Callable[[int], None] | None = None
    flash: bytearray = field(init=False)
    commands: list[int] = field(default_factory=list)
    erased: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flash = bytearray(b"\xff" * self.flash_bytes)
        self.known_bytes = 2 << 20  # What the ROM believes, until SPI_SET_PARAMS.
        self.stub = False
        self._registers: dict[int, int] = {}
        self._write: tuple[int, int] = (0, 0)
        self._inflate = zlib.decompressobj()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._silent = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"socket://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> FakeBoard:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # Unplugged already.
            self._server.shutdown(socket.SHUT_RDWR)  # Wakes whoever waits for a caller.
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self._silent = False
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        packet, inside, escaped = bytearray(), False, False
        while True:
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            for byte in data:
                if byte == 0xC0:
                    if inside and packet:
                        try:
                            for answer in self._answers(bytes(packet)):
                                if not (self.deaf or self._silent):
                                    connection.sendall(_slip(answer))
                        except ConnectionError:
                            return
                        inside = False
                    else:
                        inside = True
                    packet.clear()
                elif escaped:
                    packet.append({0xDC: 0xC0, 0xDD: 0xDB}[byte])
                    escaped = False
                elif byte == 0xDB:
                    escaped = True
                else:
                    packet.append(byte)

    def _answers(self, packet: bytes) -> list[bytes]:
        direction, op, length, check = struct.unpack_from("<BBHI", packet)
        data = packet[8:]
        assert direction == 0
        assert len(data) == length
        self.commands.append(op)
        if op == 0x08:
            assert data == SYNC_WORD
            return [_response(op, b"" if self.stub else b"\0\0", OK, 0 if self.stub else 7)] * 8
        value, body, status = self._do(op, data, check)
        if not self.stub or op == 0x06:
            status += b"\0\0"  # The ROM's is longer.
        answers = [_response(op, body, status, value)]
        if op == 0x06:
            self.stub = True
            answers.append(b"OHAI")
        if op == 0x04 and data == b"\0\0\0\0":
            self.stub = False  # The stub restarts into the ROM.
        return answers

    def _do(self, op: int, data: bytes, check: int) -> tuple[int, bytes, bytes]:
        words = struct.unpack_from(f"<{min(len(data) // 4, 6)}I", data)
        if op == 0x0A:
            return self._read(words[0]), b"", OK
        if op == 0x09:
            self._set(words[0], words[1])
        elif op == 0x14:
            return 0, struct.pack("<IB7BII", self.flags, 0, *[0] * 7, self.chip, 0), OK
        elif op in (0x02, 0x10):
            return 0, b"", self._begin(op, words)
        elif op in (0x03, 0x11, 0x07):
            block = data[16:]
            if words[0] != len(block) or check != _checksum(block):
                return 0, b"", FAILED
            if op == 0x03:
                self._program(block)
            elif op == 0x11:
                self._program(self._inflate.decompress(block))
        elif op == 0x13:
            found = hashlib.md5(self.flash[words[0] : words[0] + words[1]])
            return 0, found.digest() if self.stub else found.hexdigest().encode(), OK
        elif op == 0x0B:
            self.known_bytes = words[1]
        elif op == 0xD1 and self.stub:
            assert words[0] % SECTOR == words[1] % SECTOR == 0
            self._erase(words[0], words[1])
        elif op == 0xD0 and self.stub:
            self._erase(0, self.flash_bytes)
        elif op not in (0x04, 0x05, 0x06, 0x0D, 0x12):
            return 0, b"", FAILED
        return 0, b"", OK

    def _read(self, address: int) -> int:
        if address == EFUSE_BLOCK1:
            return int(MAC.replace(":", "")[4:], 16)
        if address == EFUSE_BLOCK1 + 4:
            return int(MAC.replace(":", "")[:4], 16)
        if address == EFUSE_BLOCK1 + 16:
            return (self.psram & 3) << 3
        if address == EFUSE_BLOCK1 + 20:
            return (self.psram >> 2) << 19
        return self._registers.get(address, 0)

    def _set(self, address: int, value: int) -> None:
        self._registers[address] = value
        if address == SPI and value & _USR:  # A command of the flash chip, run at once.
            self._registers[SPI] = 0
            command = self._registers.get(SPI + 0x20, 0) & 0xFF
            size = self.flash_bytes.bit_length() - 1
            known = {0x9F: 0xC8 | 0x40 << 8 | size << 16, 0x5A: 0x50444653}
            self._registers[SPI + 0x58] = known.get(command, 0)

    def _begin(self, op: int, words: tuple[int, ...]) -> bytes:
        size, _, _, offset = words[:4]
        if offset + size > (self.flash_bytes if self.stub else self.known_bytes):
            return FAILED
        if size:
            start = offset // SECTOR * SECTOR
            self._erase(start, -(-(offset + size - start) // SECTOR) * SECTOR)
        self._write = offset, offset + size
        self._inflate = zlib.decompressobj()
        return OK

    def _erase(self, offset: int, size: int) -> None:
        self.erased.append((offset, size))
        self.flash[offset : offset + size] = b"\xff" * size

    def _program(self, data: bytes) -> None:
        at, end = self._write
        for bad, fails in ((self.unplug_at, True), (self.silent_at, False)):
            if bad is not None and at <= bad < at + len(data):
                if fails:
                    self._server.close()
                    raise ConnectionError
                self._silent = True
        if self.on_program is not None:
            self.on_program(at)
        assert not self.stub or at + len(data.rstrip(b"\xff")) <= end
        old = int.from_bytes(self.flash[at : at + len(data)], "little")
        made = bytearray((old & int.from_bytes(data, "little")).to_bytes(len(data), "little"))
        if self.sticky is not None and at <= self.sticky < at + len(data):
            made[self.sticky - at] = 0xFF
        self.flash[at : at + len(made)] = made
        self._write = at + len(data), end


def _response(op: int, body: bytes, status: bytes, value: int) -> bytes:
    payload = body + status
    return struct.pack("<BBHI", 1, op, len(payload), value) + payload


def _checksum(data: bytes) -> int:
    state = 0xEF
    for byte in data:
        state ^= byte
    return state


def _slip(data: bytes) -> bytes:
    return b"\xc0" + data.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"
