"""Fixtures: an air, nodes on it, a bundle of two stages."""

from ble_nodes import air, node, pair

__all__ = ["air", "node", "pair"]
