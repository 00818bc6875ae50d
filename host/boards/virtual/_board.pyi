# Compiled from board.c and firmware/core by build_core.py.
from typing import Any

ffi: Any
lib: Any
