"""A report as one HTML file: nothing is fetched, nothing is sent.

`page.html.j2` is the page, `page.css` and `page.js` are put into it. Figures are inline SVG whose
greys follow the reader's light or dark theme; every mark in them tells its figure when it is
pointed at, touched or reached by keyboard.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from host.report import figures, paper
from host.report.analysis import Frame
from host.report.figures import Absent, Drawing

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
DASH = "\N{EN DASH}"  # What is not known, in a table.
_THEMED = {
    figures.INK: "var(--ink)",
    figures.FAINT: "var(--faint)",
    figures.GRID: "var(--grid)",
    "#ffffff": "var(--page)",
}


@dataclass(frozen=True)
class Source:
    """One folder of results: its name here, what was run where, and how far it is."""

    name: str
    description: str
    environment: Mapping[str, Any]
    cells: int
    cells_in_all: int
    failures: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Content:
    """All that a page says. `cells` as `host.report.analysis.cells` gives them."""

    title: str
    sources: Sequence[Source]
    cells: Frame
    drawings: Sequence[Drawing]
    absent: Sequence[Absent]
    remarks: Sequence[str] = field(default_factory=list)
    comparisons: Sequence[tuple[Drawing, Frame]] = ()


def svg(drawing: Drawing) -> str:
    """A drawing as an SVG element for an HTML page: themed, named, its marks told apart."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": drawing.key}):
        drawing.figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - our own.
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        _prefix(element, drawing.key)
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", f"{drawing.title}. {drawing.alt}")
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    text = ElementTree.tostring(root, "unicode")
    for colour, variable in _THEMED.items():
        text = text.replace(colour, variable)
    # Hatches are drawn by a stroke of the mark's edge: leave them to CSS as well.
    return re.sub(r"font: ([^;\"]*)'DejaVu Sans'[^;\"]*", r"font: \1var(--font)", text)


def _prefix(element: ElementTree.Element, key: str) -> None:
    """Ids that are the page's own, and marks with their words."""
    name = element.get("id", "")
    transport, bar, told = name.partition("|")
    if bar:
        del element.attrib["id"]
        element.set("class", "mark")
        element.set("data-transport", transport)
        element.set("tabindex", "0")
        element.set("role", "graphics-symbol")
        element.set("aria-label", told)
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = told
        element.insert(0, title)
    elif name:
        element.set("id", f"{key}-{name}")
    for attribute, value in list(element.attrib.items()):
        if attribute == f"{{{_XLINK}}}href" and value.startswith("#"):
            element.set(attribute, f"#{key}-{value[1:]}")
        elif "url(#" in value:
            element.set(attribute, value.replace("url(#", f"url(#{key}-"))


def milliseconds(value: float) -> str:
    """A duration for a table; a dash where it is not known."""
    if math.isnan(value):
        return DASH
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2}f}"


def figure(value: float, digits: int = 3) -> str:
    """A figure with so many significant digits; a dash where it is not known."""
    return DASH if math.isnan(value) else f"{value:,.{digits}g}"


def render(content: Content) -> str:
    """The page. `content` is escaped wherever it is text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(ms=milliseconds, sig=figure, isnan=math.isnan)
    told, cells = ("nodes", "kernels"), content.cells  # Once for all cells, where they agree.
    shared = {name: cells[name].iloc[0] for name in told if cells[name].nunique() == 1}
    return environment.get_template("page.html.j2").render(
        content=content,
        shared=shared,
        apart=[name for name in told if name not in shared],
        cells=cells.to_dict("records"),
        transports=sorted(set(cells["transport"])),
        svg=svg,
        styles=(folder / "page.css").read_text("utf-8"),
        script=(folder / "page.js").read_text("utf-8"),
        paper=paper.figures(),
        dump=lambda value: json.dumps(value, indent=1, sort_keys=True, default=str),
    )
