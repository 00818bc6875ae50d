"""Options of boards, their radios and the network between them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from host.link.espnow.keys import LMK_VARIABLE, read_key
from host.link.impairment import Impairment, ImpairmentError
from partitioner.command import together
from partitioner.cost.wifi import DEFAULT_RATE, RATES

att_mtu_option = click.option(
    "--att-mtu", type=click.IntRange(23, 517), help="BLE: largest ATT_MTU.  [517]"
)

# Those of an ESP-NOW radio.
espnow_options = together(
    click.option(
        "--espnow-version",
        type=click.Choice(["1", "2"]),
        help="ESP-NOW: frames of 250 or of 1,470 bytes.  [default: 1]",
    ),
    click.option(
        "--espnow-rate",
        type=click.Choice(list(RATES)),
        help=f"ESP-NOW's PHY rate.  [default: {DEFAULT_RATE}]",
    ),
    click.option("--channel", type=click.IntRange(1, 14), help="ESP-NOW's Wi-Fi channel."),
)

# How bad the network is, for `impairment`.
spoiling_options = together(
    click.option("--loss", type=float, default=0.0, help="Share of datagrams lost, each way."),
    click.option("--delay", type=float, default=0.0, metavar="MS", help="Delay of each way."),
    click.option(
        "--jitter", type=float, default=0.0, metavar="MS", help="Added at random, at most."
    ),
    click.option(
        "--reorder", type=float, default=0.0, help="Share of datagrams overtaken by others."
    ),
    click.option("--corrupt", type=float, default=0.0, help="Share of packets with bits flipped."),
    click.option(
        "--duplicate", type=float, default=0.0, help="Share of datagrams that come twice."
    ),
    click.option(
        "--rate", type=int, default=0, metavar="BPS", help="Bottleneck in bits per second."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the bad network."),
)


def impairment(transport: str, network: dict[str, Any]) -> Impairment:
    """What the options say; what makes no sense is wrong usage."""
    try:
        chosen = Impairment(
            loss=network["loss"],
            delay_ms=network["delay"],
            jitter_ms=network["jitter"],
            reorder=network["reorder"],
            corrupt=network["corrupt"],
            duplicate=network["duplicate"],
            rate_bps=network["rate"],
            seed=network["seed"],
        )
        if transport == "tcp":
            chosen.check_stream()
        chosen.check_air(transport)
    except ImpairmentError as error:
        raise click.UsageError(str(error)) from error
    return chosen


def espnow_radio(
    transport: str,
    version: str | None,
    rate: str | None,
    channel: int | None,
    pmk_file: Path | None,
    lmk_file: Path | None,
) -> dict[str, Any]:
    """What the command line says of ESP-NOW, as its air takes it."""
    options = (version, rate, channel, pmk_file, lmk_file)
    if transport != "espnow" and any(option is not None for option in options):
        raise click.UsageError(
            "--espnow-version, --espnow-rate, --channel, --pmk-file and --lmk-file need "
            "--transport espnow"
        )
    if pmk_file is not None and lmk_file is None and LMK_VARIABLE not in os.environ:
        raise click.UsageError("--pmk-file encrypts nothing without an LMK: add --lmk-file")
    given = {
        "espnow_version": None if version is None else int(version),
        "espnow_rate": rate,
        "channel": channel,
        "pmk": None if pmk_file is None else read_key(pmk_file, "PMK"),
        "lmk": None if lmk_file is None else read_key(lmk_file, "LMK"),
    }
    return {name: value for name, value in given.items() if value is not None}
