"""The same rules for Mosquitto: what `tinysplit broker --mosquitto DIR` writes.

Nodes and operators have a listener each, so that a node's client id can be made its name there
(`use_username_as_clientid`): nobody ends a node's connection by taking its client id.
"""

from __future__ import annotations

import getpass
from pathlib import Path

from host.broker.broker import Limits
from partitioner.output import whole_file

NODES_ACL = """\
# A node reads its own commands and writes its own reply, telemetry and status.
pattern read tinysplit/%u/cmd
pattern write tinysplit/%u/reply
pattern write tinysplit/%u/telemetry
pattern write tinysplit/%u/status
"""
OPERATORS_ACL = """\
# Operators read everything and write below tinysplit/. (`topic` would mean anonymous clients.)
pattern readwrite tinysplit/#
pattern read $SYS/#
"""
FILES = ("mosquitto.conf", "nodes.acl", "nodes.users", "operators.acl", "operators.users")


def configuration(
    folder: Path, host: str, port: int, tls: tuple[Path, Path] | None, limits: Limits
) -> str:
    """mosquitto.conf for Mosquitto 2: nodes at `port`, operators at the next one."""
    lines = [
        "# mosquitto -c " + str(folder / "mosquitto.conf"),
        f"user {getpass.getuser()}",
        "per_listener_settings true",
        "persistence true",
        f"persistence_location {folder}/",
        "autosave_interval 1",
        "autosave_on_changes true",
        # message_size_limit would take the packet in, whatever its size, and then refuse it.
        f"max_packet_size {limits.packet_bytes}",
        "max_keepalive 600",
        "set_tcp_nodelay true",
    ]
    for role, place in (("nodes", port), ("operators", port + 1)):
        lines += [
            "",
            f"# {role}",
            f"listener {place} {host}",
            f"max_connections {limits.clients}",
            "allow_anonymous false",
            f"password_file {folder / role}.users",
            f"acl_file {folder / role}.acl",
        ]
        if role == "nodes":
            lines.append("use_username_as_clientid true")
        if tls is not None:
            lines += [f"certfile {tls[0]}", f"keyfile {tls[1]}", "tls_version tlsv1.2"]
    return "\n".join(lines) + "\n"


def write(
    folder: Path, host: str, port: int, tls: tuple[Path, Path] | None, limits: Limits
) -> None:
    """Write the files; users that are there already stay. The folder's name has no blank.

    Raises:
        OutputError: they cannot be written.
    """
    folder = folder.resolve()
    contents = {
        "mosquitto.conf": configuration(folder, host, port, tls, limits),
        "nodes.acl": NODES_ACL,
        "operators.acl": OPERATORS_ACL,
    }
    for name in FILES:
        if name.endswith(".users") and (folder / name).exists():
            continue
        with whole_file(folder / name) as temporary:
            temporary.chmod(0o600)
            temporary.write_text(contents.get(name, ""), "utf-8")
