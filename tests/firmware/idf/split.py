"""Makes the headers that idf.h stands for: split.py DIRECTORY.

Every section `/*@ path.h */` becomes DIRECTORY/path.h, so that a file of the firmware sees of
ESP-IDF what it includes and nothing else.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

SECTION = re.compile(r"^/\*@ (\S+) \*/$", re.MULTILINE)


def sections(text: str) -> dict[str, str]:
    """Path of every header, and what stands in it."""
    parts = SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def wrapped(body: str) -> str:
    """A header that may be included twice and from C++."""
    lines = body.strip().splitlines()
    includes = "\n".join(line for line in lines if line.startswith("#include"))
    rest = "\n".join(line for line in lines if not line.startswith("#include"))
    if "__linux__" in body:  # its includes depend on where it is compiled
        includes, rest = "", "\n".join(lines)
        return f"#pragma once\n{rest}\n"
    guard = '#ifdef __cplusplus\nextern "C" {\n#endif\n'
    return f"#pragma once\n{includes}\n{guard}{rest}\n#ifdef __cplusplus\n}}\n#endif\n"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: split.py DIRECTORY")
    target = Path(sys.argv[1])
    for path, body in sections((Path(__file__).parent / "idf.h").read_text()).items():
        header = target / path
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(wrapped(body))


if __name__ == "__main__":
    main()
