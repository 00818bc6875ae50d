"""What C and C++ code prints past Python: caught, to be read or shown only when it matters."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Captured:
    """Filled when the block ends; `text` is what was printed to the captured descriptors."""

    text = ""


@contextmanager
def captured(*descriptors: int) -> Iterator[Captured]:
    """Redirect file descriptors (1 and 2 by default) of this process for a block.

    It works below Python, so it sees what libraries print; other threads are redirected too.
    """
    result = Captured()
    chosen = descriptors or (1, 2)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with tempfile.TemporaryFile() as sink:
        saved = {descriptor: os.dup(descriptor) for descriptor in chosen}
        try:
            for descriptor in chosen:
                os.dup2(sink.fileno(), descriptor)
            yield result
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            for descriptor, original in saved.items():
                os.dup2(original, descriptor)
                os.close(original)
            sink.seek(0)
            result.text = sink.read().decode("utf-8", "replace")
