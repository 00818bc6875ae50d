# Compiled from sim.c and firmware/core by build_sim.py.
from typing import Any

ffi: Any
lib: Any
