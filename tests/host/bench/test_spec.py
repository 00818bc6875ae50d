"""Experiments: what a YAML file may say, and how it is told what it may not."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.bench import spec
from host.bench.spec import Experiment, SpecError

GOOD = """\
version: 1
name: test
models: [{model: mobilenet_v2}]
cuts: [block_5_add, [block_1_project_BN, block_16_project_BN]]
transports: [udp, tcp, {transport: espnow, espnow_version: 2}]
links: [{name: clean}, {name: lossy, loss: 0.1}]
exclude: [{transport: tcp, link: lossy}]
use: [virtual, mine]
boards:
  mine: {head: "serial:/dev/ttyACM0", tail: host, bridge: "serial:/dev/ttyACM1"}
method: {runs: 2}
"""


def parse(text: str) -> Experiment:
    return spec.parse(text, Path(), "x.yaml")


def problem(old: str, new: str) -> str:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        parse(GOOD.replace(old, new))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("x.yaml: ")
    return message


RADIO = "exclude: [{transport: espnow-version2, boards: mine, link: lossy}, "


def test_cells_are_the_product_less_what_is_excluded() -> None:
    experiment = parse(GOOD.replace("exclude: [", RADIO))
    assert len(experiment.cells) == 2 * 3 * 2 * 2 - 2 * 2 - 2
    assert len({cell.name for cell in experiment.cells}) == len(experiment.cells)
    assert [cell.number for cell in experiment.cells] == list(range(len(experiment.cells)))
    assert not any(
        (cell.transport.name, cell.link.name) == ("tcp", "lossy") for cell in experiment.cells
    )


def test_the_order_is_drawn_with_the_seed_and_holds_every_cell_once() -> None:
    text = GOOD.replace("exclude: [", RADIO)
    orders = {
        seed: [c.name for c in parse(f"{text}seed: {seed}\n").ordered()] for seed in (1, 1, 2)
    }
    again = [cell.name for cell in parse(f"{text}seed: 1\n").ordered()]
    assert orders[1] == again != orders[2]
    assert sorted(orders[1]) == sorted(orders[2])


def test_a_cell_spoils_its_link_with_a_seed_of_its_own() -> None:
    cells = parse(GOOD.replace("exclude: [", RADIO)).cells
    assert len({cell.impairment.seed for cell in cells}) == len(cells)


def test_repetitions_are_cells() -> None:
    text = GOOD.replace("exclude: [", RADIO)
    assert len(parse(text + "repetitions: 3\n").cells) == 3 * len(parse(text).cells)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("transports:", "transport:", "line 5: transport: unknown key 'transport'; the nearest "
         "known is 'transports'"),
        ("[udp,", "[upd,", "line 5: transports/0: 'upd' is not known; the nearest is 'udp'"),
        ("loss: 0.1", "los: 0.1", "line 6: links/1/los: unknown key 'los'; the nearest known is "
         "'loss'"),
        ("espnow_version: 2", "espnow_version: 3", "line 5: transports/2/espnow_version: '3'"),
        ("espnow_version: 2", "espnow_vers: 2", "the nearest known is 'espnow_version'"),
        ("runs: 2", "runs: 0", "line 11: method/runs: must be a whole number from 1 to "
         "1,000, not 0"),
        ("link: lossy}", "link: losy}", "line 7: exclude/0/link: 'losy' is not known; the nearest "
         "is 'lossy'"),
        ("[virtual, mine]", "[virtual, mien]", "line 8: use: 'mien' is not known; the nearest is "
         "'mine'"),
        ("tail: host,", "tail: hots,", "line 10: boards/mine/tail: 'hots' is neither board, host"),
        ('head: "serial:/dev/ttyACM0"', "head: host", "only the tail can run on the host"),
        ("name: test", "name: test\nname: again", "line 3: name: is given twice"),
        ("version: 1", "version: 2", "line 1: version: must be 1, not 2"),
        ("loss: 0.1", "loss: .inf", "line 6: links/1/loss: is not finite"),
        ("loss: 0.1", "loss: 2", "line 6: links/1/loss: must be a number from 0 to 1, not 2"),
        ("{name: lossy,", "{name: clean,", "line 6: links/1: the name 'clean' is taken"),
        ("exclude: [{transport: tcp, link: lossy}]", "exclude: []", "a TCP stream cannot lose"),
        ("exclude: [", "exclude: [{link: lossy}, {link: lossy}, ", "line 7: exclude/1: leaves out "
         "no cell"),
        ("models: [{model: mobilenet_v2}]", "models: [{bundle: there}]", "line 4: cuts: bundles "
         "have their cuts already"),
        ("cuts: [block_5_add, [block_1_project_BN, block_16_project_BN]]\n", "",
         "`cuts` is missing"),
        ("espnow_version: 2", "att_mtu: 100", "att_mtu is for ble"),
        (', bridge: "serial:/dev/ttyACM1"', "", "from real boards needs a `bridge`"),
        ("method:", "codecs: [zip]\nmethod:", "line 11: codecs/0: 'zip' is not known; the nearest"),
        ("models: [", "models: ]", "no YAML"),
        ("name: test", "name: ..", "line 2: name: must be a name of 1 to 64 letters"),
        ("name: test", 'name: "test\\n"', "the first no dot, not 'test\\n'"),
        ("method:", 'room: {place: "\\ud800"}\nmethod:', "line 11: room/place: has half of a"),
        ("method:", 'room: {"\\ud800": x}\nmethod:', "line 11: room: has a key that is no name"),
        ("name: test", 'name: !!int ""', "line 2: name: is no int"),
        ("name: test", "name: !!bool x", "line 2: name: is no bool"),
        ("name: test", "name: !!timestamp x", "line 2: name: is no timestamp"),
        ("name: test\n", "", "`name` is missing: a name of 1 to 64 letters"),
        ("runs: 2", "runs: two", "method/runs: must be a whole number from 1 to 1,000, not 'two'"),
        ("runs: 2", "runs:", "method/runs: must be a whole number from 1 to 1,000, not nothing"),
        ("runs: 2", "runs: [2]", "not a list (1 entries)"),
        ("cuts: [block_5_add,", "cuts: [5,", "cuts/0: must be text that is not empty or a list of"),
        ("links: [{name: clean}, ", "links: [{}, ", "links/0: `name` is missing: a name of 1 to"),
        ("transports: [udp, tcp, {transport: espnow, espnow_version: 2}]", "transports: []",
         "transports: must be a list of 1 to 64 entries, not an empty list"),
        ("use: [virtual, mine]", "use: {virtual: 1}", "use: must be a name of 1 to 64 letters, digi"
         "ts and . _ + % # - or a list of 1 to 16 entries, not a mapping"),
        ("method:", "heads: [1, 1]\nmethod:", "line 11: heads: names 1 twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(old: str, new: str, told: str) -> None:
    assert told in problem(old, new)


def test_a_real_air_cannot_be_spoilt_and_the_cells_to_leave_out_are_named() -> None:
    told = problem("exclude: [", "exclude: [{boards: virtual}, ")
    assert "a real air is spoilt by hand" in told
    assert "exclude: [{transport: espnow-version2, link: lossy, boards: mine}]" in told


def test_aliases_of_aliases_end_early() -> None:
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(SpecError, match="more than 100,000 values"):
        parse("\n".join(lines))


def test_a_file_that_is_not_there_or_no_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        spec.read(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not UTF-8 text"):
        spec.read(tmp_path / "bytes.yaml")


@given(st.text(max_size=200))
def test_no_text_does_anything_but_parse_or_raise_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        parse(text)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="utf-8"))
def test_a_changed_character_parses_or_raises_spec_error(at: int, character: str) -> None:
    with contextlib.suppress(SpecError):
        parse(GOOD[:at] + character + GOOD[at + 1 :])


SHIPPED = Path(__file__).parents[3] / "experiments"
EXPERIMENTS = sorted(path for path in SHIPPED.glob("*.yaml") if path.stem != "planner")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_the_experiments_that_ship_are_experiments(path: Path) -> None:
    assert spec.read(path).cells


@pytest.mark.parametrize(("word", "attached"), [("real", True), ("modelled", False)])
def test_the_papers_experiment_is_one_word_from_real_boards(word: str, attached: bool) -> None:
    text = (SHIPPED / "paper.yaml").read_text("utf-8")
    assert text.count("\nuse: virtual\n") == 1
    virtual = spec.parse(text, SHIPPED)
    changed = spec.parse(text.replace("\nuse: virtual\n", f"\nuse: {word}\n"), SHIPPED)
    assert len(changed.cells) == len(virtual.cells) == 4
    for cell in changed.cells:
        assert (cell.boards.name, cell.boards.attached) == (word, attached)
    apart = {"boards": word}
    assert [c.coordinates for c in changed.cells] == [c.coordinates | apart for c in virtual.cells]


@pytest.mark.parametrize(
    ("meters", "what"),
    [
        ("[ppk3]", "'ppk3' is not known; the nearest is 'ppk2'"),
        ("[ppk2]", "ppk2 needs `port`"),
        ("[{meter: ppk2, port: /dev/ttyACM2}]", "ppk2 needs `voltage_mv`"),
        ("[{meter: replay}]", "replay needs `file`"),
        ("[{meter: joulescope, port: COM3}]", "joulescope does not take `port`"),
        (
            "[{meter: joulescope, serial: 415}]",
            "serial: must be text of 1 to 64 characters, not 415",
        ),
        ("[joulescop]", "'joulescop' is not known; the nearest is 'joulescope'"),
        ("[{meter: board, port: COM3}]", "board does not take `port`"),
        ("[{meter: ppk2, prt: COM3}]", "unknown key 'prt'; the nearest known is 'port'"),
        ("[{meter: ppk2, port: COM3, voltage_mv: 12000}]", "12000"),
        (
            "[{meter: ppk2, port: COM3, voltage_mv: 3300, channels: {invoke: 8}}]",
            "must be a whole number from 0 to 7, not 8",
        ),
        ("[modelled, board]\nuse: modelled", "without boards there is nothing to meter"),
    ],
)
def test_meters_are_told_what_they_need_and_nothing_else(meters: str, what: str) -> None:
    text = GOOD.replace("use: [virtual, mine]\n", "")
    with pytest.raises(SpecError) as caught:
        parse(f"{text}meters: {meters}\n")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_meter_knows_what_it_was_told() -> None:
    given = "{name: head, meter: ppk2, port: COM3, voltage_mv: 3300, channels: {invoke: 2}}"
    cell = parse(f"{GOOD.replace('exclude: [', RADIO)}meters: [{given}]\n").cells[0]
    assert (cell.meter.name, cell.meter.meter) == ("head", "ppk2")
    assert cell.meter.options["channels"] == {"invoke": 2}
