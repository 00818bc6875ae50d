"""Compiles firmware/core and the simulated world around it into `_sim`, by cffi.

Run by setup.py when tinysplit is installed. The declarations are read from sim.h, so that they
cannot differ from it.
"""

import re
from pathlib import Path

from cffi import FFI

_ROOT = Path(__file__).parents[2]
_HERE = "host/sim"


# struct ts_crypto of tinysplit/image.h.
_CRYPTO = """
    struct ts_crypto {
        void *ctx;
        bool (*sha256_start)(void *ctx);
        bool (*sha256_update)(void *ctx, const uint8_t *data, size_t len);
        bool (*sha256_finish)(void *ctx, uint8_t *digest);
        bool (*verify)(void *ctx, const uint8_t *digest, const uint8_t *signature);
    };
"""
_CALLBACKS = """
    const char *ts_error_name(unsigned code);
    extern "Python" bool sim_sha_start(void *ctx);
    extern "Python" bool sim_sha_update(void *ctx, const uint8_t *data, size_t len);
    extern "Python" bool sim_sha_finish(void *ctx, uint8_t *digest);
    extern "Python" bool sim_verify(void *ctx, const uint8_t *digest, const uint8_t *signature);
"""


def _declarations() -> str:
    """sim.h without comments and preprocessor lines, sizes as the numbers that cffi wants."""
    text = (_ROOT / _HERE / "sim.h").read_text("utf-8")
    sizes = dict(re.findall(r"#define (SIM_[A-Z]+(?:_[A-Z]+)*) (\d+)", text))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    text = text.replace("TS_IMAGE_DIGEST", "32")
    text = text.replace("SIM_MAX_FRAME + 1", str(int(sizes["SIM_MAX_FRAME"]) + 1))
    return re.sub(r"\[(SIM_[A-Z_]+)\]", lambda found: f"[{sizes[found[1]]}]", text)


ffibuilder = FFI()
ffibuilder.cdef(_CRYPTO + _declarations() + _CALLBACKS)
ffibuilder.set_source(
    "host.sim._sim",
    '#include "sim.h"\n#include "tinysplit/types.h"',
    sources=[
        *(f"{_HERE}/{name}.c" for name in ("sim", "media", "updates", "flash")),
        *sorted(str(p.relative_to(_ROOT)) for p in (_ROOT / "firmware/core/src").glob("*.c")),
    ],
    include_dirs=["firmware/core/include", "firmware/core/src", _HERE],
    extra_compile_args=["-std=c11", "-O2"],
)
