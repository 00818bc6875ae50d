"""Frames over Bluetooth Low Energy (firmware/core/SPEC.md section 13).

`gatt` is what both ends agree on: UUIDs, records, frames in values. `transport` is the host's end
with any adapter bleak can use, and `scan` finds boards. The rest is for machines without Bluetooth
and needs Bumble: `radio` is the Bluetooth of a virtual board, `air` the controllers that virtual
boards share, timed by `link_layer`, and `bumble_backend` lets bleak use such a controller.
"""
