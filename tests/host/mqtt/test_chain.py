"""Boards at a broker as stages of a chain, and updated over the air."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from host.boards.address import Address
from host.boards.kinds import OnMqtt
from host.cli import main
from host.packing.pack import pack
from host.testbed import Options, Testbed
from partitioner.bundle import Bundle, build
from partitioner.catalogue import Catalogue
from partitioner.graph import Graph
from tests.host.mqtt.mosquitto import Mosquitto
from tests.host.mqtt.nodes import node

Invoke = Callable[..., Result]
NOWHERE = Address("udp", "127.0.0.1", 9)


@pytest.fixture(scope="module")
def other(pair: Bundle, stranger: Graph) -> Bundle:
    """Another bundle of two stages."""
    cuts = Catalogue(stranger, None).chain(("#6",))
    return build(stranger, cuts, model=pair.manifest.model, calibration=None, realistic=[])


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    found = Mosquitto(tmp_path_factory.mktemp("chain"))
    yield found
    found.kill()


@pytest.fixture(scope="module")
def names(
    pair: Bundle, broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """A head and a tail with slots for images; the head sends to nobody yet."""
    folder = tmp_path_factory.mktemp("images")
    files = []
    for stage, packed in enumerate(pack(pair, range(2), None, version=1)):
        files.append(folder / f"stage{stage}.tsim")
        files[-1].write_bytes(packed.data)
    flash = [("--flash", str(folder / f"flash{stage}")) for stage in range(2)]
    with (
        node(files[0], 0, "attic", broker.url, following=NOWHERE, flags=flash[0]),
        node(files[1], 1, "cellar", broker.url, flags=flash[1]),
    ):
        yield "attic", "cellar"


def test_run(invoke: Invoke, pair_folder: Path, broker: Mosquitto, names: tuple[str, str]) -> None:
    head, tail = (f"mqtt:{name}" for name in names)
    command = ("run", pair_folder, "--count", 2, "--transport", "udp", "--broker", broker.url)
    result = invoke(main, *command, "--head", head, "--tail", tail)
    assert result.exit_code == 0, result.output
    assert "all 2 results equal the uncut model's, byte for byte" in result.output
    assert f"stage 0: a virtual board on {head}" in result.output


def test_a_broker_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    pair: Bundle,
    pair_folder: Path,
    broker: Mosquitto,
    names: tuple[str, str],
) -> None:
    monkeypatch.setenv("TINYSPLIT_BROKER", broker.url)
    boards = {0: OnMqtt(names[0]), 1: OnMqtt(names[1])}
    with Testbed(pair, pair_folder, Options(transport="tcp", boards=boards)) as testbed:
        assert len(testbed.stats()) == 2
        assert [one.kind for one in testbed.nodes] == ["virtual", "virtual"]


def test_ota(
    invoke: Invoke,
    other: Bundle,
    tmp_path: Path,
    broker: Mosquitto,
    names: tuple[str, str],
) -> None:
    """After `run`: the boards have each other's addresses."""
    other.write(tmp_path / "other")
    nodes = [f"{stage}=mqtt:{name}" for stage, name in zip(("head", "tail"), names, strict=True)]
    command = ("ota", tmp_path / "other", "--unsigned", "--json", "--broker", broker.url)
    result = invoke(main, *command, "--node", nodes[0], "--node", nodes[1])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    shown = invoke(main, "cmd", names[1], "info", "--broker", broker.url)
    assert json.loads(shown.stdout)["result"]["bundle"] == other.manifest.id


def test_a_board_that_is_not_there(invoke: Invoke, pair_folder: Path, broker: Mosquitto) -> None:
    command = ("run", pair_folder, "--transport", "udp")
    result = invoke(main, *command, "--tail", "mqtt:nobody", "--broker", broker.url)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "knows no node 'nobody'" in result.stderr
    unnamed = invoke(main, *command, "--tail", "mqtt:nobody")
    assert "no broker is named" in unnamed.stderr
