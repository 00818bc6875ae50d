"""Imports go one way: between files, between rooms (folders), and models <- partitioner <- host.

All imports count, those inside functions and for type checkers, too: a circle is not broken by
importing later. A folder inside another is a room of its own (`host.boards` is what `host.mqtt`
rests on, `host.boards.discovery` rests on both); so is a file of `host` or `partitioner` itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSES = ("models", "partitioner", "host")
SCRIPTS = {"models.train_digits"}  # Run by hand, imported by nobody: it may look upwards.

Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Every file of the houses, by its dotted name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for house in HOUSES
        for path in (root / house).rglob("*.py")
    }


def imported(tree: ast.Module, known: dict[str, Path]) -> Iterator[str]:
    """The files that a file imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports here name the whole path"
            names = [
                inner if (inner := f"{node.module}.{alias.name}") in known else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        for name in names:
            yield from (one for one in (name, f"{name}.__init__") if one in known)


@cache
def graph(root: Path) -> Graph:
    known = modules(root)
    return {
        name: {*imported(ast.parse(path.read_text("utf-8")), known)} - {name}
        for name, path in known.items()
    }


def room(module: str) -> str:
    """The folder a file lies in; files of a house itself are rooms, too."""
    folder, _, file = module.rpartition(".")
    return module if folder in HOUSES and file != "__init__" else folder


def between_rooms(files: Graph) -> Graph:
    rooms: Graph = {}
    for name, others in files.items():
        rooms.setdefault(room(name), set()).update(room(o) for o in others if room(o) != room(name))
    return rooms


def circle(found: Graph) -> list[str]:
    """One that is there, or nothing."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_between_files() -> None:
    assert circle(graph(ROOT)) == []


def test_no_circle_between_rooms() -> None:
    assert circle(between_rooms(graph(ROOT))) == []


def test_houses_import_one_way() -> None:
    upwards = {
        name
        for name, others in graph(ROOT).items()
        for other in others
        if HOUSES.index(other.split(".")[0]) > HOUSES.index(name.split(".")[0])
    }
    assert upwards == SCRIPTS
    assert not SCRIPTS & set().union(*graph(ROOT).values())


@pytest.mark.parametrize(
    "text",
    [
        "from host.b.two import x",
        "def f():\n    import host.b.two",
        "if TYPE_CHECKING:\n    from host.b import two",
    ],
)
def test_a_circle_is_found(tmp_path: Path, text: str) -> None:
    for name, content in {"a/one": text, "b/two": "", "b/three": "from host.a import one"}.items():
        path = tmp_path / "host" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert circle(graph(tmp_path)) == []
    assert set(circle(between_rooms(graph(tmp_path)))) == {"host.a", "host.b"}
