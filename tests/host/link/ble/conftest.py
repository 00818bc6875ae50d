"""Fixtures: an air, nodes on it, a bundle of two stages."""

from ble_nodes import air, node

__all__ = ["air", "node"]
