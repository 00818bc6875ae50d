"""Boards on a PC: the firmware's link library, the device's kernels, real sockets."""
