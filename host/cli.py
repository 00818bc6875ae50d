"""The command `tinysplit`: the table of its commands, each imported when it is called.

Every virtual board is a process that begins here, so this file imports next to nothing.
"""

from __future__ import annotations

from typing import ClassVar

import click

from partitioner import entry
from partitioner.command import Group


class Commands(Group):
    """Where each command is, and what the list of commands says of it."""

    table: ClassVar = {
        "air": ("host.commands.air:air", "The air for virtual boards started by hand."),
        "bench": ("host.bench.cli:bench", "Run an experiment; run again, it goes on."),
        "board": ("host.commands.board:board", "Be a virtual board, or an emulated one."),
        "boards": ("host.commands.boards:boards", "The boards that can be found."),
        "broker": ("host.broker.cli:broker", "The MQTT broker of a fleet."),
        "calibrate": (
            "partitioner.plan.cli:calibrate",
            "Fit the compute model to a board's profile.",
        ),
        "cmd": ("host.commands.cmd:cmd", "Have a board carry out a command."),
        "flash": ("host.flash.cli:flash", "Write firmware, settings and a stage by wire."),
        "gateway": ("host.gateway.cli:gateway", "The tail as a service for many heads."),
        "keys": ("host.packing.cli:keys", "The key pair that images are signed with."),
        "live": ("host.bench.cli:follow", "Follow a sweep in this terminal."),
        "monitor": ("host.mqtt.monitor:monitor", "How the boards at a broker are, live."),
        "ota": ("host.ota.cli:ota", "Move running boards to another bundle."),
        "pack": ("host.packing.cli:pack", "Pack a bundle's stages as images for boards."),
        "plan": ("partitioner.plan.cli:main", "Where to cut a network for a chain of nodes."),
        "report": ("host.report.cli:main", "One HTML page of what `bench` has left."),
        "run": ("host.commands.run:run", "Classify real images with a bundle's stages."),
        "sim": ("host.commands.sim:main", "Simulate scenarios, and check what must hold."),
    }

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, brief) for name, (_, brief) in self.table.items()])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, name = self.table[cmd_name][0].split(":")
        found: click.Command = getattr(entry.load(module), name)
        return found


@click.group(cls=Commands)
@click.version_option(package_name="tinysplit")
def main() -> None:
    """Run and measure split inference."""


if __name__ == "__main__":
    main()
