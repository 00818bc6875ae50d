"""Nodes and hops as people write them."""

from __future__ import annotations

import pytest

from models.errors import TinysplitError
from partitioner.cost import wifi
from partitioner.cost.links import Link
from partitioner.plan.model import KNOWN_NODES
from partitioner.plan.spec import MAX_OPTIONS, parse_hop, parse_node


def test_a_kind_alone_is_the_known_node() -> None:
    assert parse_node("esp32s3-psram") == KNOWN_NODES["esp32s3-psram"]


def test_a_node_differs_from_its_kind_in_what_is_said() -> None:
    node = parse_node("esp32s3:name=eye:ram=200k:psram=0:flash=2M:speed=0.5:battery=3700:idle-mw=1")
    assert (node.name, node.internal_bytes, node.psram_bytes) == ("eye", 200 << 10, 0)
    assert (node.slot_bytes, node.speed, node.battery_mwh) == (2 << 20, 0.5, 3700)
    known = KNOWN_NODES["esp32s3"].power
    assert (node.power.idle_mw, node.power.compute_mw) == (1.0, known.compute_mw)


def test_a_transport_alone_is_one_option() -> None:
    assert parse_hop("ble") == (Link("ble"),)


def test_alternatives_and_values_make_options() -> None:
    assert parse_hop("espnow:rate=1M/24M:codec=any,ble:interval=15:loss=0.1") == (
        Link(rate="1M", codec=0), Link(rate="1M", codec=1),
        Link(rate="24M", codec=0), Link(rate="24M", codec=1),
        Link("ble", interval_ms=15, loss=0.1),
    )  # fmt: skip


def test_a_codec_has_a_number_and_a_name() -> None:
    assert parse_hop("udp:codec=raw/range") == parse_hop("udp:codec=0/1")


def test_any_rate_is_every_rate_once() -> None:
    rates = [link.rate for link in parse_hop("espnow:rate=any,espnow")]
    assert rates == list(wifi.RATES)


def test_defaults_hold_where_a_transport_has_them_and_nothing_is_said() -> None:
    defaults = {"rate": "2M", "interval": "15", "loss": "0.2"}
    espnow, ble = parse_hop("espnow,ble:loss=0", defaults)
    assert (espnow.rate, espnow.loss, ble.interval_ms, ble.loss) == ("2M", 0.2, 15, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no transport ''"),
        ("espnoww", "did you mean 'espnow'"),
        ("espnow:speed=1M", "no setting 'speed'; the nearest known is"),
        ("ble:rate=1M", "no setting 'rate'"),
        ("espnow:rate", "rate=VALUE"),
        ("espnow:rate=", "rate=VALUE"),
        ("espnow:rate=9.9M", "no ESP-NOW rate"),
        ("espnow:version=3", "versions 1 and 2"),
        ("espnow:loss=-1", "no number from 0 on"),
        ("espnow:loss=inf", "no number from 0 on"),
        ("espnow:loss=1", "impossible"),
        ("ble:phy=fast", "no whole number"),
        ("ble:interval=1e9", "interval"),
        ("espnow:loss=any", "no number"),
        ("espnow:loss=" + "/".join(f"0.{n:03}" for n in range(MAX_OPTIONS + 1)), "more than"),
    ],
)
def test_hops_that_make_no_sense_are_named(text: str, says: str) -> None:
    with pytest.raises(TinysplitError, match=says):
        parse_hop(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("esp32", "did you mean 'esp32s3'"),
        ("esp32s3:memory=1", "no setting 'memory'"),
        ("esp32s3:ram=1.5", "no number of bytes"),
        ("esp32s3:ram=99999999999999999999", "no number of bytes"),
        ("esp32s3:speed=nan", "no number from 0 on"),
        ("esp32s3:speed=0", "above 0"),
        ("esp32s3:kernels=fast", "none of esp-nn, ansi"),
        ("esp32s3:battery=-1", "no number from 0 on"),
    ],
)
def test_nodes_that_make_no_sense_are_named(text: str, says: str) -> None:
    with pytest.raises(TinysplitError, match=says):
        parse_node(text)
