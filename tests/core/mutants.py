"""Does test_power_cuts find mistakes? Each of these puts one into slots.c, builds, and runs it.

usage: mutants.py WORK_DIR     (needs gcc, cmocka and OpenSSL; half a minute)

Prints which were found; fails if one was not, or if slots.c as it is does not pass.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "firmware" / "core"
TESTS = ROOT / "tests" / "core"
FLASH = ROOT / "host" / "sim"

# What it is, what is replaced (once; any white space), and by what.
MUTANTS = [
    (
        "a mark before its sector",
        "return put_sector(s->cfg, area, at, s->cfg->buffer, s->written - at) && "
        "((sector + 1) % step(s) != 0 || mark(s));",
        "return ((sector + 1) % step(s) != 0 || mark(s)) && "
        "put_sector(s->cfg, area, at, s->cfg->buffer, s->written - at);",
    ),
    ("one mark too many", "s->written = sectors <", "sectors++; s->written = sectors <"),
    (
        "a record over the current one",
        "uint8_t sector = s->sector ^ 1u;",
        "uint8_t sector = s->sector;",
    ),
    ("no erasure", "return cfg->erase(cfg->ctx, area, at) &&", "return"),
    (
        "the older record counts",
        "st.sequence - s->state.sequence) > 0",
        "st.sequence - s->state.sequence) < 0",
    ),
    (
        "a record without CRC",
        "ts_get32(in + RECORD - 4) != cfg->rules.crc.crc32(cfg->rules.crc.ctx, 0, in, RECORD - 4)",
        "false",
    ),
    ("an update of the running slot", "return s->running ^ 1u;", "return s->running;"),
    (
        "a rollback to nothing",
        "next.slot[slot ^ 1u].state == TS_SLOT_CONFIRMED ? (uint8_t)(slot ^ 1u) : TS_NO_SLOT",
        "TS_NO_SLOT",
    ),
    (
        "confirmed before its self-test",
        "next.active = (uint8_t)slot;",
        "next.active = (uint8_t)slot; next.slot[slot].state = TS_SLOT_CONFIRMED;",
    ),
    ("a single start", "s->marks >= TS_MAX_STARTS", "s->marks >= 1"),
    ("no reason kept", "next.reason = (uint16_t)code;", ""),
    (
        "the old slot forgotten",
        "next.slot[target] = (struct ts_slot){TS_SLOT_RECEIVING",
        "next.slot[target ^ 1u].state = TS_SLOT_EMPTY; "
        "next.slot[target] = (struct ts_slot){TS_SLOT_RECEIVING",
    ),
]


GCC = ("gcc", "-std=gnu11", "-O2", "-w", f"-I{CORE / 'include'}")
GCC += (f"-I{TESTS}", f"-I{FLASH}")


def unchanged(work: Path) -> list[Path]:
    """Objects of all that the test consists of but slots.c."""
    sources = [CORE / "src" / f"{name}.c" for name in ("image", "types", "crc", "error_name")]
    sources += [TESTS / f"{name}.c" for name in ("test_power_cuts", "images", "updates")]
    sources.append(FLASH / "flash.c")
    subprocess.run([*GCC, "-c", *sources], check=True, cwd=work)
    return [work / f"{source.stem}.o" for source in sources]


def passes(slots: str, others: list[Path], work: Path, name: str) -> bool:
    """Whether the test passes with this slots.c."""
    source, program = work / f"{name}.c", work / name
    source.write_text(slots)
    subprocess.run([*GCC, source, *others, "-lcmocka", "-lcrypto", "-o", program], check=True)
    return subprocess.run([program], capture_output=True, timeout=300).returncode == 0


def main() -> int:
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    others = unchanged(work)
    original = (CORE / "src" / "slots.c").read_text()

    def verdict(number: int) -> str:
        _, old, new = MUTANTS[number]
        pattern = re.compile(r"\s+".join(map(re.escape, old.split())))
        mutant, count = pattern.subn(lambda _: new, original, count=1)
        if count == 0:
            return "cannot be made"
        return "survived" if passes(mutant, others, work, f"mutant{number}") else "found"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sound = pool.submit(passes, original, others, work, "original")
        verdicts = list(pool.map(verdict, range(len(MUTANTS))))
        if not sound.result():
            print("slots.c as it is does not pass")
            return 1
    for (name, _, _), found in zip(MUTANTS, verdicts, strict=True):
        print(f"{name:32} {found}")
    survivors = len(MUTANTS) - verdicts.count("found")
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} mutants found")
    return survivors != 0


if __name__ == "__main__":
    sys.exit(main())
