"""The page and its figures: what is in them, and what cannot be made."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import pytest
from click.testing import Result

from host.bench import rows, store
from host.report import analysis, figures, paper
from host.report.cli import build, main
from tests.host.report.conftest import Sweep

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

HERE = Path(__file__).parent


def test_a_report_is_one_file_that_fetches_nothing(sweep: Sweep, invoke: object) -> None:
    folder = sweep("a")
    result: Result = invoke(main, str(folder))  # type: ignore[operator]
    assert result.exit_code == 0, result.output
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!#|data:,|https://arxiv\.org)""", page)
    assert not re.search(r"url\((?!#)", page)
    assert "<script src" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_figure_says_how_it_came_about(sweep: Sweep) -> None:
    page, drawings = build([sweep("a")])
    keys = [drawing.key for drawing in drawings]
    assert keys == [
        "phases", "spread", "energy", "payload", "retransmissions", "front", "paper",
    ]  # fmt: skip
    for drawing in drawings:
        assert drawing.provenance != "none"
        assert f'id="figure-{drawing.key}"' in page
    assert "energy modelled" in page
    assert "came about in different ways" in page


def test_ids_in_the_page_are_its_own_and_links_to_them_arrive(sweep: Sweep) -> None:
    page, _ = build([sweep("a")])
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    linked = re.findall(r'(?:href="|url\()#([^")]+)', page)
    assert linked
    assert set(linked) <= set(ids)


def test_the_same_results_give_the_same_page(sweep: Sweep) -> None:
    folder = sweep("a")
    assert build([folder])[0] == build([folder])[0]


def test_what_is_foreign_is_escaped(sweep: Sweep) -> None:
    def spoil(row: rows.Row) -> None:
        row["link"] = "<script>alert(1)</script>" if row["loss"] else "clean"

    page, _ = build([sweep("a", change=spoil)])
    assert "<script>alert" not in page


def test_without_data_a_figure_is_absent_and_why_is_said(sweep: Sweep) -> None:
    def spoil(row: rows.Row) -> None:
        row.update(energy_mj=None, payload_bytes=1, loss=0.0, retransmissions=0, cut="#4")

    page, drawings = build([sweep("a", change=spoil)])
    assert [d.key for d in drawings] == ["phases", "spread"]
    assert page.count("<li>") == 5
    assert "no meter was used" in page


def test_all_failures_still_make_a_page(sweep: Sweep) -> None:
    def spoil(row: rows.Row) -> None:
        row.update(error="no answer", round_trip_us=None, exact=None, energy_mj=None)

    page, drawings = build([sweep("a", change=spoil, failed="espnow")])
    assert drawings == []
    assert "16 failed" in page
    assert "the tail went away" in page


def test_an_unfinished_sweep_is_named_so(sweep: Sweep) -> None:
    page, _ = build([sweep("a", cells=3)])
    assert "Not finished: 3 of 8 cells." in page


def test_two_sweeps_compared(sweep: Sweep, invoke: object) -> None:
    folders = [str(sweep("a")), str(sweep("b", slower=2.0))]
    result: Result = invoke(main, "--compare", *folders, "-o", "both.html")  # type: ignore[operator]
    assert result.exit_code == 0, result.output
    page = Path("both.html").read_text()
    assert "figure-comparison" in page
    assert "Left of 1: faster" in page


def test_figures_for_publications(sweep: Sweep, invoke: object) -> None:
    result: Result = invoke(  # type: ignore[operator]
        main, str(sweep("a")), "--figures", "figs", "--format", "png", "--format", "pdf"
    )
    assert result.exit_code == 0, result.output
    written = sorted(path.name for path in Path("figs").iterdir())
    assert len(written) == 14
    assert all(path.stat().st_size > 5000 for path in Path("figs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "Missing argument"),
        (("absent",), 2, "does not exist"),
        (("a", "--compare"), 2, "two folders"),
        (("a", "--format", "png"), 2, "--figures"),
        (("a", "-o", "page.txt"), 2, ".html"),
        (("a", "a"), 1, "given twice"),
    ],
)
def test_what_cannot_be_reported(
    sweep: Sweep, invoke: object, arguments: tuple[str, ...], code: int, told: str
) -> None:
    folder = sweep("a")
    given = [str(folder) if a == "a" else a for a in arguments]
    result: Result = invoke(main, *given)  # type: ignore[operator]
    assert (result.exit_code, told in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


def test_an_empty_sweep_is_said(sweep: Sweep, invoke: object) -> None:
    result: Result = invoke(main, str(sweep("a", cells=0)))  # type: ignore[operator]
    assert result.exit_code == 1
    assert "no rows in these results" in result.output


def test_rows_of_another_version_are_refused_by_name(
    sweep: Sweep, invoke: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep("a")
    monkeypatch.setattr(rows, "VERSION", rows.VERSION + 1)
    result: Result = invoke(main, str(folder))  # type: ignore[operator]
    assert result.exit_code == 1
    assert f"version {rows.VERSION - 1}" in result.output
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("energy_mj", math.inf, "inf is no finite number"),
        ("energy_uncertainty_mj", math.nan, "nan is no finite number"),
        ("energy_mj", 1e308, "1e+308 is beyond all measure"),
        ("loss", -0.5, "-0.5 is below 0"),
        ("link_us", -7, "-7 is below 0"),
        ("phases", [{"stage": 0, "phase": "send", "duration_us": -3}], "-3 is below 0"),
        (
            "energy_phases",
            [{"stage": 0, "phase": "send", "energy_mj": -math.inf}],
            "-inf is no finite number",
        ),
    ],
)
def test_a_number_that_cannot_be_is_named_with_its_place(
    sweep: Sweep, invoke: object, column: str, value: object, told: str
) -> None:
    path = sweep("a") / store.ROWS
    spoilt = rows.read(path).to_pylist()
    spoilt[21][column] = value
    rows.write(rows.table(spoilt), path)
    result: Result = invoke(main, str(path.parent), "--figures", "figs")  # type: ignore[operator]
    assert result.exit_code == 1, result.output
    assert f"{path}, row 21 (from 0), column {column}: {told}" in result.output
    assert "restore the file" in result.output
    assert "defect" not in result.output
    assert not (path.parent / "report.html").exists()
    assert not Path("figs").exists()


@pytest.mark.parametrize(("energy_mj", "shown"), [(-0.01, (-0.012, 0.0)), (0.0, (0.0, 1.0))])
def test_less_energy_than_the_baseline_can_be(
    sweep: Sweep, energy_mj: float, shown: tuple[float, float]
) -> None:
    _, drawings = build([sweep("a", change=lambda row: row.update(energy_mj=energy_mj))])
    (energy,) = (drawing for drawing in drawings if drawing.key == "energy")
    assert energy.figure.axes[0].get_xlim() == pytest.approx(shown)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        (b'"link_us":', b"NaN", "row 1, link_us: nan is no int64"),
        (b'"link_us":', b"-7", "row 1 (from 0), column link_us: -7 is below 0"),
        (b'"energy_mj":', b"Infinity", "row 1 (from 0), column energy_mj: inf is no finite number"),
    ],
)
def test_so_it_is_in_the_cell_under_way(
    sweep: Sweep, invoke: object, field: bytes, value: bytes, told: str
) -> None:
    folder = sweep("a", cells=3, under_way=3)
    path = folder / store.JOURNAL
    lines = path.read_bytes().splitlines()
    found = [number for number, line in enumerate(lines) if b'{"row":' in line][1]
    text = re.sub(field + rb"[^,}]+", field + value, lines[found][9:])
    lines[found] = b"%08x %s" % (zlib.crc32(text), text)
    path.write_bytes(b"\n".join(lines) + b"\n")
    result: Result = invoke(main, str(folder))  # type: ignore[operator]
    assert result.exit_code == 1, result.output
    assert f"{path}" in result.output
    assert told in result.output
    assert "defect" not in result.output


def test_the_papers_figures_are_those_published() -> None:
    assert [f.milliseconds for f in paper.round_trips("espnow")] == [3700, 3600]
    (bluetooth,) = paper.round_trips("ble")
    assert (bluetooth.milliseconds, bluetooth.at_least) == (10_000, True)


def test_only_the_papers_question_stands_beside_it(sweep: Sweep) -> None:
    cells = analysis.cells(analysis.frame({"a": store.read(sweep("a")).rows}))
    ours = paper.comparable(cells)
    assert set(ours["cut"]) == {paper.LAYER}
    assert set(ours["loss"]) == {0}


def test_transports_have_colours_of_their_own() -> None:
    assert len(set(figures.TRANSPORTS.values())) == 4
    assert set(figures.PHASES) == {name for name, _, _ in analysis.PHASES}
