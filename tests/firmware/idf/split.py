"""Makes the headers that idf.h stands for: split.py DIRECTORY [OVERLAY].

Every section `/*@ path.h */` becomes DIRECTORY/path.h, so that a file of the firmware sees of
ESP-IDF what it includes and nothing else. sdkconfig.h gets the firmware's own options with the
defaults of Kconfig.projbuild, and over them what sdkconfig.defaults and OVERLAY say.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[2]
SECTION: Final = re.compile(r"^/\*@ (\S+) \*/$", re.MULTILINE)
KCONFIG: Final = re.compile(
    r"^\s*config (\w+)(.*?)(?=^\s*config |^\s*(?:menu|endmenu)\b|\Z)", re.MULTILINE | re.DOTALL
)


def sections(text: str) -> dict[str, str]:
    """Path of every header, and what stands in it."""
    parts = SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def wrapped(path: str, body: str) -> str:
    """A header that may be included twice and, if it is of C, from C++."""
    if path.startswith(("tensorflow/", "new", "cstdint")) or "__linux__" in body:
        return f"#pragma once\n{body}"
    lines = body.strip().splitlines()
    includes = "\n".join(line for line in lines if line.startswith("#include"))
    rest = "\n".join(line for line in lines if not line.startswith("#include"))
    guard = '#ifdef __cplusplus\nextern "C" {\n#endif\n'
    return f"#pragma once\n{includes}\n{guard}{rest}\n#ifdef __cplusplus\n}}\n#endif\n"


def options(overlay: Path | None) -> dict[str, str]:
    """Values of CONFIG_ names: 1 for y; those that are n are left out."""
    values: dict[str, str] = {}
    for name, body in KCONFIG.findall((ROOT / "firmware/main/Kconfig.projbuild").read_text()):
        if default := re.search(r'^\s*default (-?\w+|".*")$', body, re.MULTILINE):
            values[name] = default[1]
    for file in (ROOT / "sdkconfig.defaults", *([overlay] if overlay else [])):
        values |= dict(re.findall(r"^CONFIG_(\w+)=(.*)$", file.read_text(), re.MULTILINE))
    return {name: "1" if value == "y" else value for name, value in values.items() if value != "n"}


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: split.py DIRECTORY [OVERLAY]")
    target = Path(sys.argv[1])
    overlay = Path(sys.argv[2]) if len(sys.argv) == 3 else None
    for path, body in sections((HERE / "idf.h").read_text()).items():
        header = target / path
        header.parent.mkdir(parents=True, exist_ok=True)
        if path == "sdkconfig.h":
            lines = [f"#define CONFIG_{name} {value}\n" for name, value in options(overlay).items()]
            body = "".join(lines) + body
        header.write_text(wrapped(path, body))


if __name__ == "__main__":
    main()
