"""Builds the link library of firmware/core for virtual boards; the rest is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["host/boards/virtual/build_core.py:ffibuilder", "host/sim/build_sim.py:ffibuilder"])
