"""Whole sweeps on virtual boards: rows, interruption, boards that vanish, what is printed."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host.bench import bundles, rows, runner, spec, store
from host.bench.cli import bench, follow
from host.bench.measured import OnNodes
from host.bench.progress import Observer
from host.bench.store import Store
from host.link.frames import MIN_MTU
from partitioner.bundle import Bundle

EXPERIMENT = """\
version: 1
name: small
seed: 3
models: [{name: stranger, bundle: bundle}]
transports: [udp, {transport: tcp}]
inputs: {images: selftest, count: 4}
method: {runs: 2, run_seconds: 0.1, run_inferences: 4, warm_up_inferences: 12}
room: {distance_m: 3, who: nobody}
"""


@pytest.fixture
def place(stranger_bundle: Bundle, tmp_path: Path) -> Path:
    """A folder with a bundle of three stages and an experiment on it."""
    stranger_bundle.write(tmp_path / "bundle")
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    return tmp_path


def frame(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = store.read(folder).rows.to_pylist()
    return found


@pytest.fixture
def swept(place: Path, invoke: Callable[..., Result]) -> Path:
    """The results of the experiment, run to its end."""
    done = invoke(bench, place / "small.yaml", "--output", place / "out", "--csv")
    assert done.exit_code == 0, done.output
    assert "2 of 2: " in done.stderr
    assert " ms (median, measured) in " in done.stderr
    assert "rows in" in done.stdout
    return place / "out"


def test_a_sweep_ends_with_a_row_per_inference_and_all_that_is_known_of_it(
    swept: Path, stranger_bundle: Bundle, invoke: Callable[..., Result]
) -> None:
    found = frame(swept)
    counted = [row for row in found if row["purpose"] == rows.RUN]
    assert {(row["transport"], row["run"]) for row in counted} == {
        (transport, run) for transport in ("udp", "tcp") for run in (0, 1)
    }
    manifest = stranger_bundle.manifest
    for row in found:
        assert row["exact"]
        assert row["error"] is None
        assert row["bundle"] == manifest.id
        assert row["payload_bytes"] == manifest.boundaries[0].payload_bytes
        assert row["nodes"] == ["virtual"] * 3
        assert row["provenance"] == row["link_provenance"] == "measured"
        parts = ("head_queue_us", "head_invoke_us", "head_encode_us", "link_us", "between_us")
        parts += ("tail_decode_us", "tail_queue_us", "tail_invoke_us", "tail_encode_us")
        rest = row["round_trip_us"] - sum(row[part] for part in parts)
        assert row["return_us"] == max(rest, 0)
        assert row["between_us"] > 0
        assert row["wire_bytes"] > row["payload_bytes"] + row["wire_frames"] * 2
        assert row["data_frames"] >= 1
        received = sum(
            p["duration_us"] for p in row["phases"] if (p["stage"], p["phase"]) == (1, "receive")
        )
        assert received - 1 <= row["one_way_us"] + row["one_way_uncertainty_us"]
        assert row["one_way_us"] - row["one_way_uncertainty_us"] <= row["link_us"] + 1
        assert {p["stage"] for p in row["phases"]} == {0, 1, 2}
    # Both clocks are this machine's, and the rows know only that they are near each other.
    clocked = [row for row in found if row["one_way_method"] == "clocks"]
    assert clocked
    for row in clocked:
        assert abs(row["clock_offset_us"]) <= row["clock_uncertainty_us"] + 1
    for run in (0, 1):
        iterations = [r["iteration"] for r in counted if (r["transport"], r["run"]) == ("udp", run)]
        assert iterations == list(range(len(iterations)))
        assert len(iterations) >= 4
    state = store.read_state(swept)
    for cell in state.cells:
        medians = [
            statistics.median(
                row["round_trip_us"]
                for row in counted
                if (row["cell"], row["run"]) == (cell["name"], run)
            )
            for run in (0, 1)
        ]
        assert cell["median_us"] == statistics.median(medians)
        assert cell["warm_up"] == sum(
            row["purpose"] == rows.WARM_UP and row["cell"] == cell["name"] for row in found
        )
    environment = json.loads((swept / store.ENVIRONMENT).read_text())
    assert environment["room"] == {"distance_m": 3, "who": "nobody"}
    assert environment["bundles"] == {"stranger / own": manifest.id}
    assert [board["stage"] for board in environment["boards"]["virtual"]] == [0, 1, 2]
    assert environment["sessions"][0]["ended_utc"] is not None
    assert (swept / store.EXPERIMENT).read_text() == EXPERIMENT
    assert len((swept / store.CSV).read_text().splitlines()) == len(found) + 1
    # Again, it is over already, and nothing is run.
    before = (swept / store.ROWS).stat().st_mtime_ns
    again = invoke(bench, swept.parent / "small.yaml", "--output", swept)
    assert again.exit_code == 0
    assert (swept / store.ROWS).stat().st_mtime_ns == before
    told = invoke(follow, swept)
    assert "small: 2 of 2 cells are over" in told.stdout
    assert told.stdout.count(" measured ") == 2


def start(place: Path, *more: str) -> subprocess.Popen[str]:
    code = "import sys; from partitioner.entry import tinysplit; tinysplit()"
    words = [sys.executable, "-c", code, "bench", "small.yaml", "--output", "out", *more]
    return subprocess.Popen(
        words, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def running(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A long sweep in a process, some rows into its first cell."""
    (place / "small.yaml").write_text(EXPERIMENT.replace("run_seconds: 0.1", "run_seconds: 1"))
    process = start(place, "--json")
    deadline = time.monotonic() + 60
    while not any(row["purpose"] == rows.RUN for row in progress_rows(place / "out")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def progress_rows(folder: Path) -> list[dict[str, Any]]:
    return store.read_progress(folder).rows


def test_kill_9_loses_the_running_inference_at_most_and_the_sweep_goes_on(
    running: subprocess.Popen[str], place: Path, invoke: Callable[..., Result]
) -> None:
    refused = invoke(bench, place / "small.yaml", "--output", place / "out", "--quiet")
    assert refused.exit_code == 1
    assert f"another sweep (process {running.pid}) writes to" in refused.stderr
    followed = invoke(follow, place / "out", "--once")
    assert "small: 0 of 2 cells are over" in followed.stdout
    assert re.search(r"now: .*, median [0-9.]+ ms \(measured\), 0 failed", followed.stdout)
    before = len(progress_rows(place / "out"))
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    kept = progress_rows(place / "out")
    assert len(kept) >= before
    assert kept[-1]["error"] is None
    stopped = invoke(follow, place / "out")
    assert "nobody is writing here now" in stopped.stdout
    done = invoke(bench, place / "small.yaml", "--output", place / "out", "--quiet")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    found = frame(place / "out")
    counted = {(row["transport"], row["run"]) for row in found if row["purpose"] == rows.RUN}
    assert counted == {(transport, run) for transport in ("udp", "tcp") for run in (0, 1)}
    interrupted = [row for row in found if row["purpose"] == rows.INTERRUPTED]
    assert len(interrupted) == sum(row["purpose"] == rows.RUN for row in kept)
    assert {row["boot"] for row in interrupted} == {0}
    assert {row["boot"] for row in found} == {0, 1}
    sessions = json.loads((place / "out" / store.ENVIRONMENT).read_text())["sessions"]
    assert [session["ended_utc"] is None for session in sessions] == [True, False]


def test_ctrl_c_ends_quietly_and_events_are_json(
    running: subprocess.Popen[str], place: Path
) -> None:
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events[:2]] == ["begin", "cell"]
    assert events[0]["cells_left"] == 2
    assert progress_rows(place / "out")


class PullsThePlug(Observer):
    """Kills the second board of the first cell at its sixth inference."""

    def __init__(self, chains: list[OnNodes]) -> None:
        self.chains = chains
        self.cells = self.inferences = 0

    def cell(self, cell: spec.Cell) -> None:
        self.cells += 1

    def row(self, row: rows.Row) -> None:
        self.inferences += 1
        if self.inferences == 6:
            self.chains[0].testbed.boards[1].kill()  # type: ignore[attr-defined]


def test_a_board_that_vanishes_fails_its_cell_and_the_sweep_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains: list[OnNodes] = []
    enter = OnNodes.__enter__

    def remembered(nodes: OnNodes) -> OnNodes:
        chains.append(nodes)
        return enter(nodes)

    monkeypatch.setattr(OnNodes, "__enter__", remembered)
    experiment = spec.read(place / "small.yaml")
    with Store(place / "out", experiment) as held:
        folders = bundles.prepare(experiment, place)
        opened = bundles.read_all(experiment, folders)
        plug = PullsThePlug(chains)
        runner.run(
            experiment, held, opened, folders, lambda _: {}, plug, lambda _cell, _boards: None
        )
        held.finish()
    first, second = (cell.number for cell in experiment.ordered())
    cells = {cell["number"]: cell for cell in store.read_state(place / "out").cells}
    assert cells[first]["state"] == "failed"
    assert cells[first]["reason"].startswith("stage1 ended: ")
    assert cells[second]["state"] == "done"
    failures = [row for row in frame(place / "out") if row["error"] is not None]
    assert [(row["error_code"], row["error"]) for row in failures] == [
        ("gone", cells[first]["reason"])
    ]


def test_a_chain_that_does_not_start_fails_its_cells_and_the_command(
    place: Path, invoke: Callable[..., Result]
) -> None:
    text = EXPERIMENT.replace("transports: [udp, {transport: tcp}]", "transports: [udp]")
    text += "use: absent\nboards: {absent: {head: 'serial:/dev/nowhere', tail: board}}\n"
    (place / "small.yaml").write_text(text)
    failed = invoke(bench, place / "small.yaml", "--output", place / "out")
    assert failed.exit_code == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert "1 of 1 cells failed, the first: " in last
    assert "/dev/nowhere" in last
    (row,) = frame(place / "out")
    assert "/dev/nowhere" in row["error"]
    assert row["round_trip_us"] is None
    # The board is plugged in: the same sweep with the same file, and only what failed.
    retried = invoke(bench, place / "small.yaml", "--output", place / "out", "--retry-failed")
    assert retried.exit_code == 1
    assert store.read_state(place / "out").cells[0]["boots"] == 1


def test_inferences_that_fail_are_rows_and_too_many_in_a_row_fail_the_cell(
    place: Path, invoke: Callable[..., Result]
) -> None:
    text = EXPERIMENT.replace("[udp, {transport: tcp}]", f"[{{transport: udp, mtu: {MIN_MTU}}}]")
    text = text.replace("warm_up_inferences: 12", "timeout_ms: 40, give_up_after: 3")
    text += "links: [{name: dead, loss: 1}]\n"
    (place / "small.yaml").write_text(text)
    failed = invoke(bench, place / "small.yaml", "--output", place / "out")
    assert failed.exit_code == 1
    assert "3 inferences in a row failed, the last: " in failed.stderr
    found = frame(place / "out")
    assert len(found) == 4
    assert all(row["error"] and row["error_code"] and not row["round_trip_us"] for row in found)


def test_codec_1_is_spoken_and_its_bytes_are_counted(
    place: Path, invoke: Callable[..., Result]
) -> None:
    text = EXPERIMENT.replace("[udp, {transport: tcp}]", "[udp]") + "codecs: [raw, 1]\n"
    (place / "small.yaml").write_text(text.replace("runs: 2", "runs: 1"))
    done = invoke(bench, place / "small.yaml", "--output", place / "out")
    assert done.exit_code == 0, done.output
    for row in frame(place / "out"):
        assert row["exact"]
        raw = row["boundary_bytes"] == row["payload_bytes"]
        assert raw is (row["codec"] == "raw")


MODELLED = (
    EXPERIMENT.replace("[udp, {transport: tcp}]", "[udp, espnow]").replace("selftest", "digits")
    + "use: [modelled, simulated]\nheads: [1, 3]\nexclude: [{boards: modelled, heads: 3}]\n"
    "meters: [modelled]\n"
)


def test_cells_that_need_no_board_are_computed_and_say_so(
    place: Path, invoke: Callable[..., Result]
) -> None:
    (place / "small.yaml").write_text(MODELLED)
    done = invoke(bench, place / "small.yaml", "--output", place / "out")
    assert done.exit_code == 0, done.output
    found = frame(place / "out")
    assert {row["provenance"] for row in found} == {"modelled"}
    assert {row["energy_provenance"] for row in found} == {"modelled"}
    for row in found:
        by_phase = sum(share["energy_mj"] for share in row["energy_phases"])
        assert row["energy_mj"] == pytest.approx(by_phase)
    one = [row for row in found if row["boards"] == "modelled"]
    assert [row["transport"] for row in one] == ["udp", "espnow"]
    many = [row for row in found if row["boards"] == "simulated" and row["heads"] == 3]
    assert {row["input"] for row in many} == {"head 0", "head 1", "head 2"}
    # In simulated time an idle tail takes what the model says, within the link's own waits.
    alone = [row for row in found if row["boards"] == "simulated" and row["heads"] == 1]
    espnow = statistics.median(
        row["round_trip_us"] for row in alone if row["transport"] == "espnow"
    )
    modelled = next(row["round_trip_us"] for row in one if row["transport"] == "espnow")
    assert espnow == pytest.approx(modelled, rel=0.3)


def test_cells_without_boards_know_what_codec_1_costs_and_saves(
    place: Path, invoke: Callable[..., Result]
) -> None:
    text = EXPERIMENT.replace("[udp, {transport: tcp}]", "[udp]")
    text += "use: [modelled, simulated]\ncodecs: [raw, 1, auto]\nmeters: [modelled]\n"
    (place / "small.yaml").write_text(text)
    done = invoke(bench, place / "small.yaml", "--output", place / "out")
    assert done.exit_code == 0, done.output
    found = {
        (row["boards"], row["codec"]): row
        for row in frame(place / "out")
        if row["run"] == 0 and row["iteration"] == 0
    }
    for boards in ("modelled", "simulated"):
        raw, coded, auto = (found[boards, codec] for codec in ("raw", "1", "auto"))
        assert raw["boundary_bytes"] == raw["payload_bytes"] == coded["payload_bytes"]
        assert 0 < coded["boundary_bytes"] == auto["boundary_bytes"] < raw["boundary_bytes"] * 1.1
        assert (raw["head_encode_us"], raw["tail_decode_us"]) == (0, 0)
        assert min(coded["head_encode_us"], coded["tail_decode_us"]) > 0
        assert coded["energy_mj"] != raw["energy_mj"]
        phases = {(share["stage"], share["phase"]) for share in coded["energy_phases"]}
        assert {(0, "encode"), (1, "decode"), (1, "encode"), (2, "decode")} <= phases
    coded = found["modelled", "1"]
    parts = ("head_invoke_us", "head_encode_us", "link_us", "between_us", "tail_decode_us")
    parts += ("tail_invoke_us", "return_us")
    assert sum(coded[part] for part in parts) == pytest.approx(coded["round_trip_us"], abs=4)


@pytest.mark.slow
def test_computed_cells_are_the_same_on_a_cluster(
    place: Path, invoke: Callable[..., Result]
) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    (place / "small.yaml").write_text(MODELLED)
    from distributed import LocalCluster

    assert invoke(bench, place / "small.yaml", "--output", place / "a").exit_code == 0
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        words = ("--scheduler", address)
        done = invoke(bench, place / "small.yaml", "--output", place / "b", *words)
    assert done.exit_code == 0, done.output
    assert done.exception is None
    times = [[row["round_trip_us"] for row in frame(place / name)] for name in ("a", "b")]
    assert times[0] == times[1]


@pytest.mark.slow
def test_without_a_scheduler_there_the_sweep_says_so(
    place: Path, invoke: Callable[..., Result]
) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    (place / "small.yaml").write_text(MODELLED)
    words = ("--scheduler", "tcp://127.0.0.1:9")
    done = invoke(bench, place / "small.yaml", "--output", place / "out", *words)
    assert done.exit_code == 1
    assert "no dask scheduler answers at tcp://127.0.0.1:9" in done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (EXPERIMENT.replace("udp", "upd"), "'upd' is not known; the nearest is 'udp'"),
        (EXPERIMENT.replace("bundle: bundle", "bundle: nothing"), "is not a bundle"),
        (
            EXPERIMENT.replace("{name: stranger, bundle: bundle}", "{model: stranger.tflite}")
            + "cuts: ['#99']\n",
            "#99",
        ),
        ("", "is not a mapping"),
    ],
)
def test_wrong_experiments_end_in_one_line_and_leave_no_rows(
    place: Path, invoke: Callable[..., Result], text: str, told: str
) -> None:
    (place / "stranger.tflite").write_bytes((place / "bundle" / "full.tflite").read_bytes())
    (place / "small.yaml").write_text(text)
    done = invoke(bench, place / "small.yaml", "--output", place / "out")
    assert done.exit_code == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("bench: error: ")
    assert told in last
    assert not (place / "out" / store.ROWS).exists()


def test_cells_are_listed_in_the_order_of_their_running(
    place: Path, invoke: Callable[..., Result]
) -> None:
    done = invoke(bench, place / "small.yaml", "--list")
    listed = [cell.name for cell in spec.read(place / "small.yaml").ordered()]
    assert done.stdout.splitlines() == listed
    assert not (Path.cwd() / "results").exists()


def test_listing_names_layers_and_bundles_that_are_not_there(
    place: Path, stranger_bundle: Bundle, invoke: Callable[..., Result]
) -> None:
    (place / "stranger.tflite").write_bytes(stranger_bundle.full)
    model = "{name: stranger, model: stranger.tflite, preprocess: tf}"
    text = EXPERIMENT.replace("{name: stranger, bundle: bundle}", model)
    for cut, told in (("'#3'", None), ("conv9", "model stranger: no layer 'conv9'")):
        (place / "small.yaml").write_text(f"{text}cuts: ['#1', {cut}]\n")
        done = invoke(bench, place / "small.yaml", "--list")
        assert done.stdout.count("stranger / ") == 4
        assert done.exit_code == (told is not None), done.output
        assert told is None or told in done.stderr.splitlines()[-1]
    (place / "small.yaml").write_text(EXPERIMENT.replace("bundle: bundle", "bundle: nothing"))
    done = invoke(bench, place / "small.yaml", "--list")
    assert (done.exit_code, "is not a bundle" in done.stderr) == (1, True)
    assert not (Path.cwd() / "build").exists()


def test_bundles_can_be_made_before_boards_are_flashed(
    place: Path,
    stranger_bundle: Bundle,
    invoke: Callable[..., Result],
    capfd: pytest.CaptureFixture[str],
) -> None:
    (place / "stranger.tflite").write_bytes(stranger_bundle.full)
    model = "{model: stranger.tflite, preprocess: tf}"
    text = EXPERIMENT.replace("{name: stranger, bundle: bundle}", model)
    (place / "small.yaml").write_text(text + "cuts: [['#1', '#6'], '#3']\n")
    done = invoke(bench, place / "small.yaml", "--prepare")
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    folder, digest, *layers = first.split()
    assert layers == ["#1", "#6"]
    assert second.endswith(" #3")
    made = bundles.bundles.read(Path(folder))
    assert made.manifest.id.startswith(digest)
    assert made.stages == stranger_bundle.stages
    # Who reads a log sees what is under way, not only what is over.
    steps = ["open stranger", "cut stranger at #1+#6 (1 of 2)", "cut stranger at #3 (2 of 2)"]
    expected = [line for step in [*steps, "bundles"] for line in (f"{step} ...", f"{step} ")]
    lines = [line.strip() for line in capfd.readouterr().err.splitlines()]
    assert len(lines) == len(expected)
    for line, begins in zip(lines, expected, strict=True):
        assert line.startswith(begins)
        assert line.endswith(" ..." if begins.endswith(" ...") else " s")


def test_following_what_holds_no_results_is_one_line(
    tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    done = invoke(follow, tmp_path)
    assert done.exit_code == 1
    assert "holds no results" in done.stderr
    assert invoke(bench, tmp_path / "no.yaml").exit_code == 2
    assert invoke(bench, tmp_path / "no.yaml", "--quiet", "--json").exit_code == 2
