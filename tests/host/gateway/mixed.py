"""Virtual boards over every transport at once, all heads of one gateway, on links that lose frames.

UDP goes through a relay that loses datagrams; ESP-NOW and BLE over modelled airs that lose what is
received. A relay cannot take bytes out of a TCP stream: there the kernel's own packets are dropped
by nftables where this process may (root on Linux), and else they only are delayed.
"""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from host.background import Background
from host.boards.address import Address
from host.boards.board import Board
from host.boards.virtual.ble import BleAir
from host.boards.virtual.espnow import EspNowAir
from host.boards.virtual.process import BOOT_TIMEOUT_S, VirtualBoard, VirtualBridge
from host.closing import Assembly
from host.link.impairment import Impairment, TcpRelay, UdpRelay
from partitioner import kernels
from partitioner.bundle import Bundle
from tests.host.gateway.heads import LOOPBACK, GatewayProcess

BRIDGE = Address("espnow", "02:00:00:00:01:00")
TABLE = "tinysplit_shelf"


@dataclass
class Head:
    """A board that is a head, and over what."""

    board: Board
    transport: str


class Inputs:
    """Inputs of a bundle and the uncut model's outputs."""

    def __init__(self, bundle: Bundle, count: int = 20, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        uncut = kernels.exact().load(bundle.full)
        shape = bundle.manifest.inputs[0].shape
        self.values = [rng.integers(-128, 128, shape, np.int8) for _ in range(count)]
        self.outputs = [[o.tobytes() for o in uncut.run([value])] for value in self.values]

    def ask(self, board: Board, number: int, timeout_s: float = 60.0) -> int:
        """One inference, exact; how long it took, microseconds."""
        which = number % len(self.values)
        tensor = base64.b64encode(self.values[which].tobytes()).decode()
        answer = board.ask("run", timeout_s, input="tensors", tensors=[tensor])
        assert answer["code"] == "ok", answer
        assert [base64.b64decode(t) for t in answer["tensors"]] == self.outputs[which]
        took_us: int = answer["total_us"]
        return took_us


class Shelf(Assembly):
    """A gateway and `counts[transport]` heads of it; a context manager that leaves nothing behind.

    `tcp_loss`: whether TCP's packets are dropped, too.
    """

    def __init__(
        self, folder: Path, counts: dict[str, int], loss: float, seed: int = 1, *gateway: object
    ) -> None:
        super().__init__()
        self._folder = folder
        self._counts = counts
        self._loss = Impairment(loss=loss, seed=seed)
        self._arguments = gateway
        self.heads: list[Head] = []
        self.tcp_loss = False

    def _assemble(self) -> None:
        counts, enter = self._counts, self._stack.enter_context
        background = enter(Background(precise=True))
        ble = background.enter(BleAir(self._loss, {"stages": counts["ble"]}))
        espnow = background.enter(EspNowAir(self._loss, {"stages": counts["espnow"]}))
        bridge = enter(VirtualBridge(BRIDGE, settings={"air": espnow.place}))
        self.gateway = enter(
            GatewayProcess(
                self._folder,
                *("--listen", f"udp://{LOOPBACK}:0", "--listen", f"tcp://{LOOPBACK}:0"),
                *("--listen", f"espnow:{bridge.port}", "--listen", "ble", "--air", ble.place),
                *("--http", f"{LOOPBACK}:0", *self._arguments),
            )
        )
        udp_port, tcp_port = self.gateway.ports
        udp = background.enter(UdpRelay((LOOPBACK, udp_port), self._loss))
        self.tcp_loss = self._drop_packets(tcp_port)
        delayed = Impairment(delay_ms=1, jitter_ms=2, seed=self._loss.seed)
        tcp = background.enter(TcpRelay((LOOPBACK, tcp_port), delayed))
        ways: dict[str, tuple[Any, Address]] = {
            "udp": (None, Address("udp", *udp.address)),
            "tcp": (None, Address("tcp", *tcp.address)),
            "espnow": (espnow, BRIDGE),
            "ble": (ble, Address("ble", "central")),
        }
        for transport, count in counts.items():
            air, following = ways[transport]
            for number in range(count):
                listen = Address(transport, LOOPBACK, 0) if air is None else air.address(number)
                name = f"{transport}{number}"
                settings = {} if air is None else {"air": air.place}
                board = VirtualBoard(
                    name, self._folder, 0, listen, following, timeout_ms=50_000, settings=settings
                )
                self.heads.append(Head(enter(board), transport))
        for head in self.heads:
            head.board.wait_ready(BOOT_TIMEOUT_S)

    def _drop_packets(self, port: int) -> bool:
        """Have the kernel drop the share of TCP's packets at the gateway's port, both ways."""
        share = round(self._loss.loss * 1000)
        if share == 0:
            return False
        table = f"{TABLE}_{port}"
        rules = f"""
            table inet {table} {{
                chain input {{
                    type filter hook input priority 0;
                    tcp dport {port} numgen random mod 1000 < {share} drop
                    tcp sport {port} numgen random mod 1000 < {share} drop
                }}
            }}"""
        try:
            done = subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True)
        except OSError:
            return False
        if done.returncode:
            return False
        self._stack.callback(subprocess.run, ["nft", "delete", "table", "inet", table], check=True)
        return True
