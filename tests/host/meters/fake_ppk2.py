"""A PPK2 at the far end of a pseudo-terminal: `python fake_ppk2.py JSON`.

Speaks the instrument's serial protocol: stop, metadata, mode, voltage, power, start; then four
bytes a sample at 100 kS/s of real time, made from a known profile through the inverse of the
calibration it reported. Prints its port as soon as it is there; ends with its standard input,
which is what pulling the plug looks like.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
import tty
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

RATE = 100_000
# A unit that is none of the nominal ones.
R = (1003.3506, 101.5865, 10.3027, 0.9636, 0.0564)
GS = (0.0, 112.7890, 17.4474, 1.3247, 0.2018)
GI = (1.0, 0.9695, 0.9609, 0.9519, 0.9582)
O = (112.7890, 80.1358, 64.0829, 51.5263, 74.4187)  # noqa: E741
S = (0.000000048, 0.000000596, 0.000005281, 0.000062577, 0.002940743)
I = (-0.000000104, -0.000001443, 0.000036439, -0.000374119, -0.009388455)  # noqa: E741
UG = (1.0, 1.0, 1.0, 1.0, 1.0)
TOPS_A = (50e-6, 500e-6, 5e-3, 50e-3)  # Above them the next range.
VOLTS_PER_COUNT = 1.8 / 163840
METADATA = "Calibrated: 1\n" + "".join(
    f"{name}{k}: {values[k]:.9f}\n"
    for name, values in {"R": R, "GS": GS, "GI": GI, "O": O, "S": S, "I": I, "UG": UG}.items()
    for k in range(5)
) + "VDD: 3300\nHW: 9173\nmode: 2\nIA: 56\nEND"  # fmt: skip


@dataclass(frozen=True)
class Behaviour:
    """`profile`: (samples, amperes, marks) over and over; `lose`: (first, count) of samples not
    sent; `lose_by_turns`: (period, lossy, every): in the first `lossy` samples of each period, each
    `every`-th is not; `silent`: answers nothing; `stop_after`: sends no more after so many samples;
    `vanish_after`: is unplugged after them."""

    profile: list[tuple[int, float, int]]
    lose: tuple[tuple[int, int], ...] = ()
    lose_by_turns: tuple[int, int, int] = (1, 0, 1)
    silent: bool = False
    stop_after: int = 0
    vanish_after: int = 0
    split_metadata: bool = False

    def text(self) -> str:
        return json.dumps(asdict(self))


def encoded(
    profile: list[tuple[int, float, int]], voltage_v: float, seed: int = 1
) -> npt.NDArray[np.uint32]:
    """One turn of the profile as samples without counters; counts are dithered, as noise does."""
    counts = [n for n, _, _ in profile]
    current = np.repeat([a for _, a, _ in profile], counts)
    marks = np.repeat(np.array([m for _, _, m in profile], np.uint32), counts)
    ranges = np.searchsorted(TOPS_A, current)
    r, gs, gi, o, s, i, ug = (np.array(values)[ranges] for values in (R, GS, GI, O, S, I, UG))
    linear = current / ug - (s * voltage_v + i)
    # gs x^2 + gi x = linear
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.where(gs > 0, (np.sqrt(gi**2 + 4 * gs * linear) - gi) / (2 * gs), linear / gi)
    adc = (root * r / VOLTS_PER_COUNT + o) / 4
    dither = np.random.default_rng(seed).random(len(adc))
    adc = np.clip(np.floor(adc + dither), 0, 0x3FFF).astype(np.uint32)
    return adc | ranges.astype(np.uint32) << 14 | marks << 24


def main() -> None:
    behaviour = Behaviour(**json.loads(sys.argv[1]))
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    print(os.ttyname(theirs), flush=True)  # noqa: T201
    device = Device(ours, behaviour)
    while True:
        wait = device.step()
        ready = select.select([ours, sys.stdin], [], [], wait)[0]
        if sys.stdin in ready and not sys.stdin.readline():
            return
        if ours in ready:
            device.told(os.read(ours, 256))


class Device:
    """The instrument."""

    def __init__(self, fd: int, behaviour: Behaviour) -> None:
        self._fd, self._behaviour = fd, behaviour
        self._voltage_v = 0.0
        self._power = self._mode = 0
        self._started_s: float | None = None
        self._sent = 0

    def told(self, data: bytes) -> None:
        while data and not self._behaviour.silent:
            command, length = data[0], {0x0C: 2, 0x0D: 3, 0x11: 2}.get(data[0], 1)
            if len(data) < length:
                data += os.read(self._fd, length - len(data))
            if command == 0x07:
                self._started_s = None
            elif command == 0x19:
                middle = 100 if self._behaviour.split_metadata else 0
                os.write(self._fd, METADATA[:middle].encode())
                time.sleep(0.25 if middle else 0)
                os.write(self._fd, METADATA[middle:].encode())
            elif command == 0x11:
                self._mode = data[1]
            elif command == 0x0D:
                self._voltage_v = 0.8 + ((data[1] - 3) * 256 + data[2] - 32) / 1000
            elif command == 0x0C:
                self._power = data[1]
            elif command == 0x06:
                assert self._mode in (1, 2)
                assert self._power == 1
                assert 0.8 <= self._voltage_v <= 5.0
                self._turn = encoded(self._behaviour.profile, self._voltage_v)
                self._started_s, self._sent = time.monotonic(), 0
            data = data[length:]

    def step(self) -> float | None:
        """Send what is due; how long until more is."""
        if self._started_s is None:
            return None
        due = int((time.monotonic() - self._started_s) * RATE)
        if self._behaviour.stop_after:
            due = min(due, self._behaviour.stop_after)
        while self._sent < due:
            count = min(due - self._sent, 1000)
            numbers = np.arange(self._sent, self._sent + count)
            counters = (numbers & 63).astype(np.uint32) << 18
            words = self._turn[numbers % len(self._turn)] | counters
            period, lossy, every = self._behaviour.lose_by_turns
            kept = (numbers % period >= lossy) | (numbers % every != 0)
            for first, many in self._behaviour.lose:
                kept &= (numbers < first) | (numbers >= first + many)
            words = words[kept]
            data = words.astype("<u4").tobytes()
            while data:
                data = data[os.write(self._fd, data) :]
            self._sent += count
        if 0 < self._behaviour.vanish_after < self._sent:
            sys.exit()
        return 0.01


if __name__ == "__main__":
    main()
