"""The meter on the board, by the telemetry that firmware/main/telemetry.c sends."""

import json
import time
from typing import Any

import pytest

from host.boards.board import Board
from host.meters.board import OnBoard
from host.meters.meter import NONE, MeterError

IDLE_W = 0.2


class TelemetryBoard(Board):
    """A board at the control line whose meter counts `IDLE_W`, and what `spend` adds."""

    def __init__(self, *, metered: bool = True, **settings: Any) -> None:
        super().__init__("the board")
        self._metered, self._stands = metered, False
        self._settings = {"meter": "ina226", "meter_mohm": 100, **settings}
        self._born = time.monotonic()
        self._spent_j = 0.0
        self._out = b""
        self._samples = 0

    def spend(self, joules: float) -> None:
        self._spent_j += joules

    def stand(self) -> None:
        """The meter stops; the board goes on."""
        self._stands = True

    def _send(self, line: bytes) -> None:
        command = json.loads(line)
        up_s = time.monotonic() - self._born
        self._samples += not self._stands
        result: dict[str, Any] = {"uptime_ms": int(up_s * 1e3), "reset": "power_on"}
        if command["cmd"] == "configure":
            result = self._settings
        elif self._metered:
            result |= {
                "voltage_mv": 5000,
                "current_ua": int(IDLE_W / 5 * 1e6),
                "energy_uj": int((up_s * IDLE_W + self._spent_j) * 1e6),
                "power_samples": self._samples,
            }
        answer = {"id": command["id"], "ok": True, "result": result}
        self._out += json.dumps(answer).encode() + b"\n"

    def _receive(self, timeout_s: float) -> bytes:
        out, self._out = self._out, b""
        return out

    def close(self) -> None: ...


def test_the_counter_less_what_the_board_spent_around_the_inference() -> None:
    head, tail = TelemetryBoard(), TelemetryBoard()
    meter = OnBoard(idle_s=0.3)
    meter.attach([head, TelemetryBoard(metered=False), tail])
    meter.begin()
    time.sleep(0.2)
    head.spend(0.050)
    tail.spend(0.010)
    found = meter.end({(0, 0): 7_000_000, (0, 1): 80_000, (0, 3): 20_000, (2, 1): 40_000})
    # 0.1 s of the head at 0.2 W, 0.04 s of the tail.
    assert found.stages[0] == pytest.approx(70, abs=1.5)
    assert found.stages[2] == pytest.approx(18, abs=1.5)
    assert found.energy_mj == pytest.approx(88, abs=3)
    assert (found.method, found.phases, found.baseline_mw) == (NONE, {}, None)
    assert found.uncertainty_mj is not None
    assert abs(found.energy_mj - 88) < found.uncertainty_mj < 10


def test_the_idle_power_is_subtracted_on_request() -> None:
    board = TelemetryBoard(meter="ina219")
    meter = OnBoard(subtract=True, idle_s=0.3)
    meter.attach([board])
    meter.begin()
    time.sleep(0.1)
    board.spend(0.050)
    found = meter.end({(0, 1): 50_000})
    assert found.energy_mj == pytest.approx(50, abs=1.5)
    assert found.baseline_mw == pytest.approx(200, rel=0.05)


def test_a_board_without_a_meter_and_one_whose_meter_stops_are_named() -> None:
    with pytest.raises(MeterError, match="meter_mohm") as caught:
        OnBoard(idle_s=0).attach([TelemetryBoard(metered=False)])
    assert caught.value.code == "no_meter"
    with pytest.raises(MeterError, match="which meter") as caught:
        OnBoard(idle_s=0.05).attach([TelemetryBoard(meter="none")])
    board = TelemetryBoard()
    meter = OnBoard(idle_s=0.05)
    meter.attach([board])
    meter.begin()
    board.stand()
    with pytest.raises(MeterError, match="has stopped") as caught:
        meter.end({})
    assert caught.value.code == "stopped"
