"""The paper's set-up through the models, beside the paper's figures: writes paper_model.md.

    .venv/bin/python experiments/paper_model.py

MobileNetV2 alpha 0.35 at 224x224, cut at block_16_project_BN (5,488 bytes), two ESP32-S3 boards
with PSRAM. All our figures are modelled; the paper's were measured by its authors.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from partitioner.catalogue import Catalogue
from partitioner.cost.compute import Kernels
from partitioner.cost.links import Link
from partitioner.plan.model import KNOWN_NODES, SplitModel, named
from partitioner.plan.problem import Plan
from partitioner.source import Request, open_source

HERE = Path(__file__).parent
OUTPUT = HERE / "paper_model.md"
LAYER = "block_16_project_BN"
LINKS = {
    "ESP-NOW": Link("espnow"),
    "ESP-NOW v2": Link("espnow", version=2),
    "ESP-NOW v2, 24 Mbit/s": Link("espnow", version=2, rate="24M"),
    "BLE": Link("ble"),
    "UDP": Link("udp"),
    "TCP": Link("tcp"),
}
_PAPER_NAMES = {"ESP-NOW": "espnow", "BLE": "ble", "UDP": "udp", "TCP": "tcp"}
_WHY = """
Where the differences come from. The link is the smaller part in every row: the paper's own one-way
time over UDP is 3.2 ms of a round trip of 5.8 s. What takes seconds is computing. With reference
kernels in C the head alone has 881 million instructions (emulated), 3.7 s at one instruction per
cycle and 240 MHz, which is the paper's round trip over ESP-NOW; with ESP-NN's vector kernels, which
this firmware uses, it is 119.5 million. So what separates the paper's transports by seconds is not
the air: a boundary of 5.5 kB takes some 75 ms on the slowest of them. Waits in the software around
it would do that (polling, setting up a connection for each inference, power save with its beacon
interval of 102 ms); the paper does not say. Our model knows no such waits, and no other traffic.
"""


def _paper() -> dict[tuple[str, str], str]:
    """(quantity, transport) to what the paper says, all its versions."""
    found: dict[tuple[str, str], str] = {}
    with (HERE.parent / "host/report/paper.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = row["quantity"], row["transport"]
            text = f"{row['value']} {row['unit']}"
            found[key] = f"{found[key]} / {text}" if key in found else text
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    source = open_source(Request(size=224, weights="random"))
    _, cut = Catalogue(source.graph, source.layers).resolve(LAYER)
    paper = _paper()
    lines = [
        "# The paper's experiment, modelled",
        "",
        "`.venv/bin/python experiments/paper_model.py`: MobileNetV2 alpha 0.35 at 224x224, cut at "
        f"`{LAYER}`, {cut.payload_bytes:,} bytes (the paper: 5.66 kB), two ESP32-S3 with PSRAM at "
        "240 MHz, no loss. `between` is the error band of the compute model.",
        "",
        "| transport | kernels | head ms | link ms | tail ms | round trip ms | between | "
        "paper: round trip | paper: one way |",
        "|---|---|---|---|---|---|---|---|---|",
        "| | | modelled | modelled | modelled | modelled | modelled | measured by the paper | "
        "measured by the paper |",
    ]
    kinds: tuple[Kernels, ...] = ("esp-nn", "ansi")
    for kernels in kinds:
        board = replace(KNOWN_NODES["esp32s3-psram"], kernels=kernels)
        for name, link in LINKS.items():
            model = SplitModel(source.graph, named([board, board]), [link])
            plan = Plan((0, 1), (model.positions.index(cut.position), len(model.positions) - 1))
            head, tail = model.stages(plan)
            (hop,) = model.hops(plan)
            air = hop.crossing.us + hop.result.us
            low, middle, high = (
                sum(getattr(stage, part) for stage in (head, tail)) + air
                for part in ("low_us", "us", "high_us")
            )
            key = _PAPER_NAMES.get(name, "")
            cells = [
                name,
                "ESP-NN" if kernels == "esp-nn" else "C",
                *(f"{us / 1e3:,.1f}" for us in (head.us, hop.crossing.us, tail.us, middle)),
                f"{low / 1e3:,.0f} to {high / 1e3:,.0f}",
                paper.get(("steady_state_rtt", key), ""),
                paper.get(("one_way_transmission", key), ""),
            ]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1])
    OUTPUT.write_text("\n".join(lines) + "\n" + _WHY, "utf-8")


if __name__ == "__main__":
    main()
