"""MQTT 3.1.1's bytes as a client sends them, written from the standard and not by the broker."""

from __future__ import annotations


def text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def length(count: int) -> bytes:
    out = bytearray()
    while True:
        count, low = count >> 7, count & 0x7F
        out.append(low | (0x80 if count else 0))
        if not count:
            return bytes(out)


def connect(
    name: str = "tail",
    *,
    level: int = 4,
    keepalive_s: int = 30,
    clean: bool = True,
    will: tuple[str, bytes] | None = None,
) -> bytes:
    """As the user `name`, with the same client id; a will is retained, with QoS 1."""
    flags = 0xC0 | clean << 1 | (0x2C if will is not None else 0)
    body = text("MQTT") + bytes((level, flags)) + keepalive_s.to_bytes(2, "big") + text(name)
    if will is not None:
        body += text(will[0]) + len(will[1]).to_bytes(2, "big") + will[1]
    body += text(name) + text(f"password of {name}")
    return b"\x10" + length(len(body)) + body


def subscribe(topic: str, qos: int = 1, number: int = 1) -> bytes:
    body = number.to_bytes(2, "big") + text(topic) + bytes((qos,))
    return b"\x82" + length(len(body)) + body


def publish(
    topic: str, payload: bytes, *, qos: int = 0, number: int = 1, retain: bool = False
) -> bytes:
    body = text(topic) + (number.to_bytes(2, "big") if qos else b"") + payload
    return bytes((0x30 | qos << 1 | retain,)) + length(len(body)) + body


def acknowledge(kind: int, number: int) -> bytes:
    """PUBACK 4, PUBREC 5, PUBREL 6, PUBCOMP 7."""
    return bytes((kind << 4 | (2 if kind == 6 else 0), 2)) + number.to_bytes(2, "big")
