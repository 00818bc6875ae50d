"""`tinysplit report`: one page of one or more folders of results, and its figures as files."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from models.errors import TinysplitError
from partitioner.command import Command, existing, verbose_option
from partitioner.output import refuse_existing, whole_file

FORMATS = ("png", "pdf", "svg")


class ReportError(TinysplitError):
    """A report that cannot be made."""


@click.command(cls=Command)
@click.argument("results", nargs=-1, required=True, type=existing())
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="The page; default: report.html in the first folder of results.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Set every further folder's cells beside those of the first.",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write each figure to a file there.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="Of these files; may be repeated.  [default: png and pdf]",
)
@click.option("--title", default="", help="Of the page; default: the experiment's name.")
@verbose_option()
def main(
    results: tuple[Path, ...],
    output: Path | None,
    compare: bool,
    figures: Path | None,
    formats: tuple[str, ...],
    title: str,
    verbose: bool,
) -> None:
    """One HTML page of what `tinysplit bench` left in RESULTS, finished or not.

    The page needs no network: tables, figures and the little that moves in them are all inside.
    """
    if compare and len(results) < 2:
        raise click.UsageError("--compare takes two folders of results or more")
    if formats and figures is None:
        raise click.UsageError("--format is of --figures DIR, which was not given")
    target = output or results[0] / "report.html"
    if target.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"--output {target}: the page's name must end in .html")
    if output is not None:
        refuse_existing(output, force=None)
    _require()
    page, drawings = build(results, compare=compare, title=title)
    with whole_file(target) as temporary:
        temporary.write_text(page, "utf-8")
    click.echo(f"{target}: {len(drawings)} figures, {len(page) / 1000:,.0f} kB")
    if figures is not None:
        from host.report.figures import save

        written = save(drawings, figures, formats or ("png", "pdf"))
        click.echo(f"{figures}: {len(written)} files")


def _require() -> None:
    for name in ("jinja2", "matplotlib", "pandas", "pyarrow"):
        if importlib.util.find_spec(name) is None:
            raise ReportError(
                f"reports need {name}: pip install 'tinysplit[bench,plot]' (in its checkout: "
                "pip install '.[bench,plot]')"
            )


def build(folders: Sequence[Path], *, compare: bool = False, title: str = "") -> tuple[str, Any]:
    """The page (HTML) of results, and its drawings.

    Raises:
        StoreError, RowsError, SpecError: no results there, or none that this tinysplit reads.
        AnalysisError: nothing in them counts, or nothing compares.
    """
    from host.bench import store
    from host.report import analysis, figures, page

    read = [store.read(folder) for folder in folders]
    names = _names([one.experiment.name for one in read], folders)
    frame = analysis.frame({name: one.rows for name, one in zip(names, read, strict=True)})
    drawings, absent = figures.drawings(frame)
    comparisons = []
    for other in names[1:] if compare else ():
        compared = analysis.compare(frame, names[0], other)
        comparisons.append((figures.comparison(compared, names[0], other), compared))
    sources = [
        page.Source(
            name,
            one.experiment.description,
            one.environment,
            len(one.cells),
            len(one.experiment.cells),
            [c for c in one.cells if c["state"] == "failed"],
        )
        for name, one in zip(names, read, strict=True)
    ]
    remarks = []
    kinds = set(analysis.counted(frame)["provenance"])
    if len(kinds) > 1:
        remarks.append(
            f"Cells here came about in different ways ({'; '.join(sorted(kinds))}): do not compare "
            "across them without saying so."
        )
    content = page.Content(
        title or " and ".join(names),
        sources,
        analysis.cells(frame),
        drawings,
        absent,
        remarks,
        comparisons,
    )
    return page.render(content), [*(drawing for drawing, _ in comparisons), *drawings]


def _names(experiments: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """A name for each: the experiment's, and the folder where two are of the same."""
    last = [folder.resolve().name for folder in folders]
    alike = len(set(zip(experiments, last, strict=True))) < len(folders)
    found = [
        f"{name} ({folder if alike else stem})" if experiments.count(name) > 1 else name
        for name, folder, stem in zip(experiments, folders, last, strict=True)
    ]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ReportError("the same folder of results is given twice")
    return found
