"""Reads the hex examples out of the specification and the shared vector file."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SPEC = ROOT / "firmware" / "core" / "SPEC.md"
VECTORS = ROOT / "tests" / "vectors" / "link.txt"
SID = 0x0B67EF2D
_TITLE = re.compile(r"^`(\w+)`, (\d+) bytes", re.MULTILINE)


def examples() -> dict[str, bytes]:
    """Name -> bytes of every example in SPEC.md; the stated length is checked."""
    text = SPEC.read_text()
    found = {}
    for title in _TITLE.finditer(text):
        lines = []
        for line in text[title.end() :].split("\n")[1:]:
            if line.startswith("    "):
                lines.append(line)
            elif lines or line.strip():
                break
        found[title[1]] = bytes.fromhex(" ".join(lines))
        assert len(found[title[1]]) == int(title[2]), title[1]
    return found


def vectors() -> list[dict[str, str]]:
    """The blocks of the shared vector file; empty if it is not there."""
    if not VECTORS.exists():
        return []
    blocks = []
    for block in VECTORS.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        fields = (line.partition(":") for line in lines)
        vector = {key: value.strip() for key, _, value in fields}
        if "vector" in vector:
            blocks.append(vector)
    return blocks
