"""Nodes and hops as people write them, on the command line and in an experiment's YAML.

    NODE   esp32s3-psram:ram=200k:flash=2M:battery=3700        KIND and what differs from it
    HOP    espnow:rate=1M/24M:codec=any,ble:interval=15        what to choose from

A hop's alternatives are separated by commas; a setting's values by slashes, `any` for all of them.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import click

from models.errors import TinysplitError
from partitioner.codec import NAMES as CODECS
from partitioner.command import Bytes
from partitioner.cost import wifi
from partitioner.cost.compute import Kernels
from partitioner.cost.links import TRANSPORTS, Link
from partitioner.plan.model import NodeProfile, node

MAX_OPTIONS = 128
ANY = "any"


class SpecError(TinysplitError):
    """Text that is no node or no hop."""


def _bytes(text: str) -> int:
    if text == "0":
        return 0
    try:
        return Bytes().convert(text, None, None)
    except click.BadParameter as error:
        raise SpecError(error.message) from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise SpecError(f"{text!r} is no number from 0 on")
    return value


def _integer(text: str) -> int:
    if not text.isdecimal():
        raise SpecError(f"{text!r} is no whole number")
    return int(text)


def _codec(text: str) -> int:
    """A codec's number, by its number or name."""
    numbers = {name: number for number, name in CODECS.items()}
    return numbers[text] if text in numbers else _integer(text)


def _one_of(known: Iterable[str]) -> Callable[[str], str]:
    names = list(known)

    def convert(text: str) -> str:
        if text not in names:
            raise SpecError(f"{text!r} is none of {', '.join(names)}")
        return text

    return convert


_Setting = tuple[str, Callable[[str], Any]]
_NODE: dict[str, _Setting] = {
    "ram": ("internal_bytes", _bytes),
    "psram": ("psram_bytes", _bytes),
    "flash": ("slot_bytes", _bytes),
    "speed": ("speed", _number),
    "kernels": ("kernels", _one_of(get_args(Kernels))),
    "battery": ("battery_mwh", _number),
    "name": ("name", str),
}
_POWER: dict[str, _Setting] = {
    f"{part}-mw": (f"{part}_mw", _number) for part in ("idle", "compute", "transmit", "receive")
}
_HOP: dict[str, _Setting] = {
    "loss": ("loss", _number),
    "version": ("version", _integer),
    "rate": ("rate", str),
    "phy": ("phy", _integer),
    "interval": ("interval_ms", _number),
    "data": ("data_bytes", _integer),
    "codec": ("codec", _codec),
}
NODE_KEYS = (*_NODE, *_POWER)
HOP_KEYS = tuple(_HOP)
_OWN = {
    "espnow": {"version", "rate"},
    "ble": {"phy", "interval", "data"},
    "udp": set[str](),
    "tcp": set[str](),
}
_ALL: dict[str, Sequence[str]] = {
    "version": ("1", "2"),
    "rate": tuple(wifi.RATES),
    "phy": ("1", "2"),
    "codec": tuple(str(one) for one in CODECS),
}


def parse_node(text: str) -> NodeProfile:
    """A node from KIND[:KEY=VALUE...].

    Raises:
        SpecError, NodeError: unknown words (named, with the nearest known one) or numbers that
            cannot be.
    """
    kind, *settings = text.split(":")
    profile = node(kind)
    values: dict[str, Any] = {}
    power: dict[str, float] = {}
    for key, value in _settings(text, settings, NODE_KEYS):
        name, convert = (_NODE | _POWER)[key]
        (power if key in _POWER else values)[name] = _converted(text, key, convert, value)
    return replace(profile, **values, power=replace(profile.power, **power))


def parse_hop(text: str, defaults: Mapping[str, str] | None = None) -> tuple[Link, ...]:
    """What a hop has to choose from.

    Args:
        defaults: settings where the text says nothing; those a transport does not have are
            left out.

    Raises:
        SpecError, LinkError, RateError: unknown words (named, with the nearest known one),
            numbers that cannot be, or too many options.
    """
    found: dict[Link, None] = {}
    for alternative in text.split(","):
        transport, *settings = alternative.split(":")
        if transport not in TRANSPORTS:
            near = difflib.get_close_matches(transport, TRANSPORTS, n=1, cutoff=0)[0]
            raise SpecError(
                f"no transport {transport!r}, did you mean {near!r}? Known: {', '.join(TRANSPORTS)}"
            )
        known = [key for key in _HOP if key in _OWN[transport] | {"loss", "codec"}]
        given = {key: value for key, value in (defaults or {}).items() if key in known}
        given |= dict(_settings(alternative, settings, known))
        choices = {
            _HOP[key][0]: [
                _converted(alternative, key, _HOP[key][1], one)
                for one in (_ALL[key] if value == ANY and key in _ALL else value.split("/"))
            ]
            for key, value in given.items()
        }
        if math.prod(map(len, choices.values())) > MAX_OPTIONS:
            raise SpecError(f"{alternative!r} has more than {MAX_OPTIONS} options")
        for values in itertools.product(*choices.values()):
            found[Link(transport, **dict(zip(choices, values, strict=True)))] = None
    if len(found) > MAX_OPTIONS:
        raise SpecError(f"{text!r} has more than {MAX_OPTIONS} options")
    return tuple(found)


def _settings(
    text: str, settings: Sequence[str], known: Sequence[str]
) -> Iterable[tuple[str, str]]:
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise SpecError(f"{text!r}: no setting {key!r}; the nearest known is {near!r}")
        if not equals or not value:
            raise SpecError(f"{text!r}: {key}=VALUE")
        yield key, value


def _converted(text: str, key: str, convert: Callable[[str], Any], value: str) -> Any:
    try:
        return convert(value)
    except SpecError as error:
        raise SpecError(f"{text!r}, {key}: {error}") from None
