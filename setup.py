"""Compiles firmware/core for virtual boards and the simulator; the rest is in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=[
        "host/boards/virtual/build_core.py:ffibuilder",
        "host/sim/build_sim.py:ffibuilder",
    ]
)
