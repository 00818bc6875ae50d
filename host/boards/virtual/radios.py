"""Radios and airs by the names of transports; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from host.boards.virtual.radio import Air, Radio, RadioSetup
from host.link.impairment import Impairment
from host.link.transport import TransportError, not_installed


def create_radio(transport: str, setup: RadioSetup) -> Radio:
    """The radio for a transport, not yet started.

    Raises:
        TinysplitError: settings or keys it cannot use.
    """
    if transport == "espnow":
        from host.boards.virtual.espnow import EspNowRadio

        return EspNowRadio(setup)
    if transport == "ble":
        try:
            from host.boards.virtual.ble import BleRadio
        except ModuleNotFoundError as error:
            raise not_installed("virtual boards on BLE", "air", error) from error
        return BleRadio(setup)
    raise TransportError(f"no radio for {transport}")


def create_air(transport: str, impairment: Impairment, options: Mapping[str, Any]) -> Air:
    """The air for a transport; `options` are the command line's that belong to it.

    `options["stages"]` is the number of nodes. Raises TinysplitError for what it cannot do.
    """
    if transport == "espnow":
        from host.boards.virtual.espnow import EspNowAir

        return EspNowAir(impairment, options)
    if transport == "ble":
        try:
            from host.boards.virtual.ble import BleAir
        except ModuleNotFoundError as error:
            raise not_installed("virtual boards on BLE", "air", error) from error
        return BleAir(impairment, options)
    raise TransportError(f"no air for {transport}")
