"""What an inference costs a battery: currents of the datasheet over the time in each state.

Theory of operation. Energy is counted above the idle state, so that it adds up stage by stage
and hop by hop; what idling costs is a matter of the day, not of the inference. Currents are those
of the chip at 3.3 V (data/esp32s3_power.csv); a module's PSRAM and flash, and a board's regulators
and LEDs, come on top. One core computing with 128-bit loads is half-way between both idle and both
busy; Bluetooth's transmitter is not in that table and is priced as Wi-Fi's, an upper bound.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from partitioner.cost.links import Crossing

VOLTS = 3.3
_DATA = Path(__file__).with_name("data") / "esp32s3_power.csv"


@cache
def currents_ma() -> dict[str, float]:
    """Current of each state in mA, from data/esp32s3_power.csv."""
    with _DATA.open(encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row["state"]: float(row["current_ma"]) for row in rows}


@dataclass(frozen=True)
class PowerModel:
    """Milliwatts of a node above idle, and of idling itself, which here is any state of rest."""

    idle_mw: float
    compute_mw: float
    transmit_mw: float
    receive_mw: float

    def compute_mj(self, us: float) -> float:
        """Energy of so long a computation on one core."""
        return self.compute_mw * us / 1e6

    def send_mj(self, crossing: Crossing) -> float:
        """Energy of the sender of a boundary: transmitting, and listening for the rest."""
        listening = max(crossing.us - crossing.sender_us, 0.0)
        return (self.transmit_mw * crossing.sender_us + self.receive_mw * listening) / 1e6

    def receive_mj(self, crossing: Crossing) -> float:
        """Energy of the receiver of a boundary."""
        listening = max(crossing.us - crossing.receiver_us, 0.0)
        return (self.transmit_mw * crossing.receiver_us + self.receive_mw * listening) / 1e6

    def resting_in(self, state: str) -> PowerModel:
        """The same for a node that spends the time between inferences in another state.

        Args:
            state: of data/esp32s3_power.csv, such as `light_sleep`. A node is thought to wake in
                time, and waking to cost nothing.
        """
        rest = currents_ma()[state] * VOLTS
        more = self.idle_mw - rest  # What being awake costs above resting.
        return PowerModel(
            rest, self.compute_mw + more, self.transmit_mw + more, self.receive_mw + more
        )

    def day_mwh(self, inference_mj: float, inferences: float) -> float:
        """Energy of a day with so many inferences, and rest between them."""
        return self.idle_mw * 24 + inference_mj * inferences / 3600


@cache
def esp32s3() -> PowerModel:
    """The chip at 240 MHz with its peripherals' clocks on."""
    current = currents_ma()
    idle = current["cpu_idle_clocks_on"]
    busy = (current["cpu_dual_128bit_clocks_on"] + idle) / 2
    return PowerModel(
        idle_mw=idle * VOLTS,
        compute_mw=(busy - idle) * VOLTS,
        transmit_mw=(current["wifi_tx_11b_1mbps"] - idle) * VOLTS,
        receive_mw=(current["wifi_rx"] - idle) * VOLTS,
    )


MAINS = PowerModel(0.0, 0.0, 0.0, 0.0)
"""A node whose energy nobody counts."""
