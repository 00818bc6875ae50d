"""The option that names the emulator, for every command that may start one."""

from __future__ import annotations

import click

from partitioner.command import existing

emulator_option = click.option(
    "--qemu-bin",
    type=existing(),
    envvar="TINYSPLIT_QEMU",
    show_envvar=True,
    help="The emulator, if it is not the qemu-system-xtensa on PATH.",
)
