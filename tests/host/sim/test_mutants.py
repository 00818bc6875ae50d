"""The properties can fail: mistakes put into firmware/core on purpose are found in few seeds."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from host.sim import build_sim

ROOT = Path(__file__).parents[3]
CORE = ROOT / "firmware" / "core"
SEEDS = 4

# What it is; where, what is replaced, by what; the scenario that finds it, and as what.
MUTANTS = [
    (
        "any bundle will do",
        [("session.c", "return any != 0 && memcmp(", "return any != 0 || memcmp(")],
        "retrained",
        "results across two bundles",
    ),
    (
        "damaged frames and messages are taken",
        [
            ("frame.c", "ts_get16(in + len - 2) != crc16_of(crc, seed, in, len - 2)", "false"),
            ("message.c", "return message_crc(crc, sid, head, body, env->len) == env->crc;",
             "return true;"),
        ],
        "hostile_wire",
        "results that are not exact",
    ),
    (
        "sessions that end stay down",
        [("session.c", "bool keep = s->initiator && s->keep;", "bool keep = false;")],
        "reboots",
        "nodes stuck after everything healed",
    ),
    (
        "no erasure",
        [("slots.c", "return cfg->erase(cfg->ctx, area, at) &&", "return")],
        "update",
        "boots without a whole, verified bundle",
    ),
    (
        "updates of the running slot",
        [("slots.c", "return s->running ^ 1u;", "return s->running;")],
        "update",
        "boots without a whole, verified bundle",
    ),
    (
        "a refused image is kept",
        [("slots.c", "next.slot[slot].state = TS_SLOT_REFUSED;", "")],
        "hostile_update",
        "nodes that never got the newest bundle",
    ),
]  # fmt: skip

RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("host.sim._sim", sys.argv[1])
sys.modules["host.sim._sim"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import host.sim
host.sim._sim = module
from pathlib import Path
from host.sim import scenario, world
one = scenario.read(Path(sys.argv[2]))
for seed in range(int(sys.argv[3])):
    report, _ = world.run(one, seed)
    if report.problems:
        print(seed, "; ".join(report.problems))
"""


class Builder:
    """Compiles everything once, and then one file for each mutant."""

    def __init__(self, work: Path) -> None:
        self.work = work
        glue = work / "glue.c"
        build_sim.ffibuilder.emit_c_code(str(glue))
        sources = [*(CORE / "src").glob("*.c"), *(ROOT / "host" / "sim").glob("*.c"), glue]
        self.objects = {path.name: self.compile(path, path.stem) for path in sources}

    def compile(self, source: Path, name: str) -> Path:
        made = self.work / f"{name}.o"
        folders = CORE / "include", CORE / "src", ROOT / "host" / "sim"
        include = [f"-I{folder}" for folder in (*folders, sysconfig.get_path("include"))]
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run(
            [*compiler, "-std=c11", "-O1", "-w", "-fPIC", *include, "-c", source, "-o", made],
            check=True,
        )
        return made

    def problems(self, name: str, changed: dict[str, Path], scenario: Path) -> str:
        """What `scenario` finds, a line for each seed that breaks a property."""
        library = self.work / f"{name}.so"
        objects = {**self.objects, **changed}.values()
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, "-shared", *objects, "-o", library], check=True)
        found = subprocess.run(
            [sys.executable, "-c", RUN, library, scenario, str(SEEDS)],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return found.stdout


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("mutants"))


def path_of(scenario: str) -> Path:
    return ROOT / "experiments" / "sim" / f"{scenario}.yaml"


@pytest.mark.parametrize("scenario", ["retrained", "hostile_update"])
def test_the_library_as_it_is_has_no_problems(builder: Builder, scenario: str) -> None:
    assert builder.problems(f"original_{scenario}", {}, path_of(scenario)) == ""


@pytest.mark.parametrize(
    ("what", "changes", "scenario", "says"), MUTANTS, ids=[mutant[0] for mutant in MUTANTS]
)
def test_a_mistake_is_found(
    builder: Builder, tmp_path: Path, what: str, changes: list[tuple[str, str, str]], scenario: str,
    says: str,
) -> None:  # fmt: skip
    name = what.replace(" ", "_")
    changed = {}
    for file, old, new in changes:
        original = (CORE / "src" / file).read_text("utf-8")
        assert original.count(old) == 1
        source = tmp_path / file
        source.write_text(original.replace(old, new), "utf-8")
        changed[file] = builder.compile(source, f"{name}_{source.stem}")
    assert says in builder.problems(name, changed, path_of(scenario))
