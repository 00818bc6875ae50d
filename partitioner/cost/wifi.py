"""How long things take on an 802.11 medium at 2.4 GHz. Times in microseconds.

Clauses are those of IEEE Std 802.11-2016. Long slots everywhere: ESP-NOW has no access point, and
without one stations that know 802.11g use the long slot too (9.4.1.4, Short Slot Time in an IBSS).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from models.errors import TinysplitError

SIFS_US: Final = 10.0  # Tables 16-4 (HR/DSSS) and 18-5 (ERP).
SLOT_US: Final = 20.0  # Table 16-4; Table 18-5, long.
DIFS_US: Final = SIFS_US + 2 * SLOT_US  # 10.3.7
LONG_PREAMBLE_US: Final = 192.0  # 16.2.2.2: 144 bits of preamble, 48 of header, at 1 Mbit/s.
SHORT_PREAMBLE_US: Final = 96.0  # 16.2.2.3: 72 bits at 1 Mbit/s, 48 at 2.
ACK_BYTES: Final = 14  # 9.3.1.4
CW_MAX: Final = 1023  # Tables 16-4 and 18-5.
SHORT_RETRY_LIMIT: Final = (
    7  # dot11ShortRetryLimit's default (Annex C); what a chip uses may differ.
)

_OFDM_PREAMBLE_US: Final = 20.0  # 17.3.2.4: 16 of preamble, 4 of SIGNAL.
_OFDM_SYMBOL_US: Final = 4.0
_OFDM_EXTENSION_US: Final = 6.0  # 18.3.2.4: signal extension of ERP-OFDM.
_OFDM_SERVICE_AND_TAIL_BITS: Final = 16 + 6  # 17.3.5.3


class RateError(TinysplitError):
    """Not a rate of this radio."""


@dataclass(frozen=True)
class Rate:
    """A PHY rate.

    `ack` names the rate of the acknowledgement: the highest mandatory one of the same modulation
    class that is not above it (10.7.6.5.2).
    """

    name: str
    bps: int
    ack: str
    cw_min: int
    ofdm: bool = False

    @property
    def text(self) -> str:
        """For people: `1 Mbit/s`, `250 kbit/s`."""
        return f"{self.name[:-1]} {self.name[-1].replace('K', 'k')}bit/s"

    def airtime_us(self, frame_bytes: int, *, short_preamble: bool = False) -> float:
        """From the preamble's first bit to the frame's last, FCS included in `frame_bytes`."""
        if self.ofdm:
            bits = _OFDM_SERVICE_AND_TAIL_BITS + 8 * frame_bytes
            per_symbol = self.bps * _OFDM_SYMBOL_US / 1e6
            symbols = math.ceil(bits / per_symbol)
            return _OFDM_PREAMBLE_US + _OFDM_SYMBOL_US * symbols + _OFDM_EXTENSION_US
        # A short preamble does not exist at 1 Mbit/s (16.2.2.3) nor for long range.
        short = short_preamble and self.bps >= 2_000_000
        preamble = SHORT_PREAMBLE_US if short else LONG_PREAMBLE_US
        return preamble + math.ceil(8 * frame_bytes * 1e6 / self.bps)  # 16.2.3.5: LENGTH in us.

    def ack_us(self, *, short_preamble: bool = False) -> float:
        """Duration of the acknowledgement of a frame at this rate."""
        return RATES[self.ack].airtime_us(ACK_BYTES, short_preamble=short_preamble)


_DSSS_CW_MIN: Final = 31  # Table 16-4; Table 18-5, aCWmin(0).
_OFDM_CW_MIN: Final = 15  # Table 18-5, aCWmin(1).


def _rates() -> dict[str, Rate]:
    found = [
        # Espressif's long range: the PLCP is not published; modelled as 802.11b's long one.
        Rate("250K", 250_000, "250K", _DSSS_CW_MIN),
        Rate("500K", 500_000, "500K", _DSSS_CW_MIN),
        Rate("1M", 1_000_000, "1M", _DSSS_CW_MIN),
        Rate("2M", 2_000_000, "2M", _DSSS_CW_MIN),
        Rate("5.5M", 5_500_000, "5.5M", _DSSS_CW_MIN),
        Rate("11M", 11_000_000, "11M", _DSSS_CW_MIN),
    ]
    for megabits, ack in (
        (6, "6M"), (9, "6M"), (12, "12M"), (18, "12M"),
        (24, "24M"), (36, "24M"), (48, "24M"), (54, "24M"),
    ):  # fmt: skip
        found.append(Rate(f"{megabits}M", megabits * 1_000_000, ack, _OFDM_CW_MIN, ofdm=True))
    return {rate.name: rate for rate in found}


RATES: Final = _rates()
DEFAULT_RATE: Final = "1M"  # ESP-NOW guide: "The default ESP-NOW bit rate is 1 Mbps."


def rate(name: str) -> Rate:
    """The rate of that name. Raises RateError."""
    try:
        return RATES[name]
    except KeyError:
        raise RateError(f"{name!r} is no ESP-NOW rate: one of {', '.join(RATES)}") from None


def exchange_us(
    frame_bytes: int, at: Rate, *, acknowledged: bool, short_preamble: bool = False
) -> float:
    """A frame and, if it is for one station, the SIFS and the acknowledgement after it."""
    total = at.airtime_us(frame_bytes, short_preamble=short_preamble)
    if acknowledged:
        total += SIFS_US + at.ack_us(short_preamble=short_preamble)
    return total
