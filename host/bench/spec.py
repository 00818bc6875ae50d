"""An experiment: what its YAML file says, checked, and the cells that follow from it.

`experiment.schema.json` describes the file key by key. Cells are the product of all axes in
canonical order, less what `exclude` leaves out; `ordered` is the order in which they are run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from host.boards import kinds
from host.boards.address import RADIOS
from host.boards.kinds import Emulated, Kind, KindError, OnMqtt, OnSerial
from host.document import Document, DocumentError, nearest, text_of
from host.link.impairment import Impairment, ImpairmentError
from models.errors import TinysplitError
from partitioner.source import Request

MODELLED = "modelled"
SIMULATED = "simulated"
BOARDLESS = (MODELLED, SIMULATED)
CODECS = ("raw", "auto", "1")
# What each meter must be told.
METERS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "modelled": (),
    "ppk2": ("port", "voltage_mv"),
    "joulescope": (),
    "board": (),
    "replay": ("file",),
}
_SAMPLED = ("stage", "phases", "channels", "rule", "baseline_s")
_TAKES: Mapping[str, tuple[str, ...]] = {
    "ppk2": ("port", "mode", "voltage_mv", *_SAMPLED),
    "joulescope": ("serial", "accuracy_percent", *_SAMPLED),
    "board": ("baseline_s",),
    "replay": ("file", "voltage_mv", *_SAMPLED),
}
OWN_CUT = "own"  # Of a model that is a bundle.
_RADIO = ("espnow_version", "espnow_rate", "channel", "att_mtu")


class SpecError(TinysplitError):
    """An experiment that cannot be read or makes no sense; says where."""


@dataclass(frozen=True)
class ModelSpec:
    """A network to be cut (`request`), or a bundle that is there (`bundle`)."""

    name: str
    request: Request | None = None
    bundle: Path | None = None


@dataclass(frozen=True)
class TransportSpec:
    """A variant of a transport. `radio` has the options that its air takes."""

    name: str
    transport: str
    family: int = 4
    mtu: int = 0
    radio: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LinkSpec:
    """A link condition; the seed of `impairment` is each cell's own."""

    name: str
    impairment: Impairment


@dataclass(frozen=True)
class BoardsSpec:
    """A set of nodes. `relays` empty: virtual boards, as many as are needed."""

    name: str
    head: Kind = field(default_factory=kinds.Virtual)
    relays: tuple[Kind, ...] = ()
    tail: Kind = field(default_factory=kinds.Virtual)
    bridge: OnSerial | None = None

    @property
    def boardless(self) -> bool:
        """Computed or simulated: nothing is run."""
        return self.name in BOARDLESS

    @property
    def attached(self) -> bool:
        """Whether a real board takes part."""
        nodes = (self.head, *self.relays, self.tail)
        return any(isinstance(kind, OnSerial | OnMqtt) for kind in nodes)


BUILT_IN_BOARDS = {
    "virtual": BoardsSpec("virtual"),
    "host-tail": BoardsSpec("host-tail", tail=kinds.Host()),
    MODELLED: BoardsSpec(MODELLED),
    SIMULATED: BoardsSpec(SIMULATED),
}


@dataclass(frozen=True)
class MeterSpec:
    """An energy meter and what it needs to know."""

    name: str
    meter: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """When a cell is satisfied; experiment.schema.json says what each number means."""

    runs: int = 5
    run_seconds: float = 10.0
    run_inferences: int = 10
    warm_up_inferences: int = 100
    warm_up_seconds: float = 60.0
    steady_window: int = 5
    steady_tolerance: float = 0.05
    timeout_ms: int = 10_000
    give_up_after: int = 10
    cell_seconds: float = 3600.0


@dataclass(frozen=True)
class Inputs:
    """What is inferred on."""

    images: str = "digits"
    count: int = 10
    resize: bool = False


@dataclass(frozen=True)
class Cell:
    """One point of the product. `number` counts in canonical order; `name` is unique."""

    number: int
    model: ModelSpec
    cut: tuple[str, ...]
    transport: TransportSpec
    link: LinkSpec
    codec: str
    boards: BoardsSpec
    meter: MeterSpec
    heads: int
    repetition: int

    @property
    def coordinates(self) -> dict[str, str | int]:
        """Name of each axis to the name of the value there."""
        return {
            "model": self.model.name,
            "cut": cut_name(self.cut),
            "transport": self.transport.name,
            "link": self.link.name,
            "codec": self.codec,
            "boards": self.boards.name,
            "meter": self.meter.name,
            "heads": self.heads,
        }

    @property
    def name(self) -> str:
        parts = [*self.coordinates.values(), f"repetition {self.repetition}"]
        return " / ".join(str(part) for part in parts)

    @property
    def impairment(self) -> Impairment:
        """The link's, with a seed that is this cell's own and the same every time."""
        seed = hashlib.sha256(f"{self.link.impairment.seed}/{self.name}".encode()).digest()
        return replace(self.link.impairment, seed=int.from_bytes(seed[:4], "little"))


@dataclass(frozen=True)
class Experiment:
    """A checked experiment. `sha256` is of the file's bytes, `text` what is in it."""

    name: str
    description: str
    seed: int
    models: tuple[ModelSpec, ...]
    cells: tuple[Cell, ...]
    inputs: Inputs
    method: Method
    room: Mapping[str, Any]
    folder: Path
    text: str
    sha256: str

    def ordered(self) -> list[Cell]:
        """The cells in the order in which they are run: drawn with the seed."""
        shuffled = list(self.cells)
        random.Random(f"{self.seed}/order").shuffle(shuffled)  # noqa: S311
        return shuffled


def cut_name(cut: Sequence[str]) -> str:
    """Layers of a cut as one name."""
    return "+".join(cut) or OWN_CUT


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of experiments."""
    text = Path(__file__).with_name("experiment.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def read(path: Path, qemu: Path | None = None) -> Experiment:
    """The experiment in a YAML file. `qemu`: the emulator of its emulated boards, None: on PATH.

    Raises:
        SpecError: unreadable, no YAML, or not an experiment; the line, and for unknown keys and
            names the nearest known one.
    """
    try:
        text = text_of(path)
    except DocumentError as error:
        raise SpecError(f"{path}: {error}") from error
    return parse(text, path.parent, str(path), qemu)


def parse(
    text: str, folder: Path, name: str = "experiment", qemu: Path | None = None
) -> Experiment:
    """An experiment from its text; paths in it are relative to `folder`. Raises SpecError."""
    try:
        document = Document(text, schema())
        return _experiment(document, text, folder, qemu)
    except DocumentError as error:
        raise SpecError(f"{name}: {error}") from error


def _experiment(document: Document, text: str, folder: Path, qemu: Path | None) -> Experiment:
    content = document.content
    codecs = [str(codec) for codec in content["codecs"]]
    for place, codec in enumerate(codecs):
        _require(document, ("codecs", place), codec, CODECS)
    if len(set(codecs)) != len(codecs):
        raise document.error(("codecs",), "names a codec twice")
    models = _unique(document, "models", [_model(m, folder) for m in content["models"]])
    transports = _unique(document, "transports", [_transport(t) for t in content["transports"]])
    links = _unique(document, "links", [_link(link, content["seed"]) for link in content["links"]])
    meters = _unique(document, "meters", [_meter(meter) for meter in content["meters"]])
    for place, meter in enumerate(meters):
        _require(document, ("meters", place), meter.meter, list(METERS))
        for option in METERS[meter.meter]:
            if option not in meter.options:
                raise document.error(("meters", place), f"{meter.meter} needs `{option}`")
        for option in meter.options:
            if option not in _TAKES.get(meter.meter, ()):
                raise document.error(
                    ("meters", place, option), f"{meter.meter} does not take `{option}`"
                )
    boards = _chosen_boards(document, qemu)
    cuts = [(c,) if isinstance(c, str) else tuple(c) for c in content.get("cuts", [])]
    if not cuts and any(model.request for model in models):
        raise document.error((), "`cuts` is missing: after which layers the models are cut")
    if cuts and not any(model.request for model in models):
        raise document.error(("cuts",), "bundles have their cuts already; leave `cuts` out")
    cells: list[Cell] = []
    product = itertools.product(
        models, cuts or [()], transports, links, codecs, boards, meters,
        content["heads"], range(content["repetitions"]),
    )  # fmt: skip
    for point in product:
        model, cut, *rest = point
        if model.bundle is not None:
            if cuts and cut != cuts[0]:
                continue
            cut = ()
        cells.append(Cell(len(cells), model, cut, *rest))
    kept = _kept(document, cells)
    numbered = tuple(replace(cell, number=number) for number, cell in enumerate(kept))
    for cell in numbered:
        _check_cell(document, cell)
    return Experiment(
        name=content["name"],
        description=content["description"],
        seed=content["seed"],
        models=models,
        cells=numbered,
        inputs=Inputs(**document.content["inputs"]),
        method=Method(**document.content["method"]),
        room=content["room"],
        folder=folder,
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def _unique(document: Document, axis: str, values: Sequence[Any]) -> tuple[Any, ...]:
    seen: set[str] = set()
    for place, value in enumerate(values):
        if value.name in seen:
            raise document.error(
                (axis, place), f"the name {value.name!r} is taken; give each a name of its own"
            )
        seen.add(value.name)
    return tuple(values)


def _require(
    document: Document, place: tuple[str | int, ...], given: str, known: Sequence[str]
) -> None:
    if given not in known:
        raise document.error(place, f"{given!r} is not known; {nearest(given, known)}")


def _model(content: Mapping[str, Any], folder: Path) -> ModelSpec:
    if "bundle" in content:
        name = content.get("name", Path(content["bundle"]).name)
        return ModelSpec(name, bundle=folder / content["bundle"])
    wanted = {f.name for f in fields(Request)}
    chosen = {key: value for key, value in content.items() if key in wanted}
    if "preprocess" in content:
        chosen["preprocessing"] = content["preprocess"]
    for key in ("model", "weights", "calibration"):
        if (path := folder / str(chosen.get(key, ""))).is_file():
            chosen[key] = str(path)
    if (path := folder / chosen["calibration"]).is_dir():
        chosen["calibration"] = str(path)
    stem = Path(content["model"]).stem
    details = [content.get(key) for key in ("alpha", "size", "classes", "weights")]
    name = content.get("name", "_".join(str(part) for part in (stem, *details) if part is not None))
    return ModelSpec(name, request=Request(**chosen))


def _transport(content: str | Mapping[str, Any]) -> TransportSpec:
    if isinstance(content, str):
        return TransportSpec(content, content)
    radio = {key: content[key] for key in _RADIO if key in content}
    transport = content["transport"]
    told = [f"mtu{content['mtu']}"] if content["mtu"] else []
    told += ["ipv6"] if content["ipv6"] else []
    told += [f"{key.rpartition('_')[2]}{value}" for key, value in radio.items()]
    name = content.get("name", "-".join([transport, *told]))
    family = 6 if content["ipv6"] else 4
    return TransportSpec(name, transport, family, content["mtu"], radio)


def _link(content: Mapping[str, Any], seed: int) -> LinkSpec:
    chosen = {key: value for key, value in content.items() if key != "name"}
    return LinkSpec(content["name"], Impairment(**chosen, seed=seed))


def _meter(content: str | Mapping[str, Any]) -> MeterSpec:
    if isinstance(content, str):
        return MeterSpec(content, content)
    options = {key: value for key, value in content.items() if key not in ("name", "meter")}
    return MeterSpec(content.get("name", content["meter"]), content["meter"], options)


def _chosen_boards(document: Document, qemu: Path | None) -> list[BoardsSpec]:
    known = dict(BUILT_IN_BOARDS)
    for name, content in document.content["boards"].items():
        if name in known:
            raise document.error(("boards", name), "this name is built in; choose another")
        known[name] = _boards(document, name, content, qemu)
    use = document.content["use"]
    chosen = [use] if isinstance(use, str) else use
    for name in chosen:
        _require(document, ("use",), name, list(known))
    if len(set(chosen)) != len(chosen):
        raise document.error(("use",), "names a set twice")
    return [known[name] for name in chosen]


def _boards(
    document: Document, name: str, content: Mapping[str, Any], qemu: Path | None
) -> BoardsSpec:
    def kind(place: tuple[str | int, ...], text: str) -> Kind:
        try:
            found = kinds.parse(text, qemu)
        except KindError as error:
            raise document.error(("boards", name, *place), str(error)) from error
        if isinstance(found, kinds.Host) and place != ("tail",):
            raise document.error(("boards", name, *place), "only the tail can run on the host")
        return found

    bridge = kind(("bridge",), content["bridge"]) if "bridge" in content else None
    if bridge is not None and not isinstance(bridge, OnSerial):
        raise document.error(("boards", name, "bridge"), "a bridge is on a serial port")
    return BoardsSpec(
        name,
        kind(("head",), content["head"]),
        tuple(kind(("relays", i), text) for i, text in enumerate(content["relays"])),
        kind(("tail",), content["tail"]),
        bridge,
    )


def _kept(document: Document, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that no entry of `exclude` leaves out; an entry that leaves out none is wrong."""
    left = list(cells)
    for place, entry in enumerate(document.content["exclude"]):
        for axis, given in entry.items():
            known = sorted({str(cell.coordinates[axis]) for cell in cells})
            for name in given if isinstance(given, list) else [given]:
                _require(document, ("exclude", place, axis), str(name), known)
        kept = [cell for cell in left if not _matches(cell, entry)]
        if len(kept) == len(left):
            raise document.error(("exclude", place), "leaves out no cell")
        left = kept
    if not left:
        raise document.error(("exclude",), "leaves no cell to run")
    return left


def _matches(cell: Cell, entry: Mapping[str, Any]) -> bool:
    coordinates = cell.coordinates
    return all(
        str(coordinates[axis]) in [str(g) for g in (given if isinstance(given, list) else [given])]
        for axis, given in entry.items()
    )


def _check_cell(document: Document, cell: Cell) -> None:
    """What cannot be run is refused, rather than left out silently."""
    why = _impossible(cell)
    if why is not None:
        wanted = ", ".join(f"{axis}: {name}" for axis, name in why[1].items())
        raise document.error((), f"{why[0]}; leave these cells out with exclude: [{{{wanted}}}]")


def _impossible(cell: Cell) -> tuple[str, dict[str, str]] | None:
    """Why a cell cannot be run, and the coordinates that say so; None if it can."""
    impairment, transport, boards = cell.link.impairment, cell.transport, cell.boards
    both = {"transport": transport.name, "link": cell.link.name}
    kind = transport.transport
    clean = Impairment(seed=impairment.seed)
    if kind == "tcp" and not boards.boardless:
        try:
            impairment.check_stream()
        except ImpairmentError:
            return "a TCP stream cannot lose, double or reorder anything in user space", both
    for name in transport.radio:
        belongs = "ble" if name == "att_mtu" else "espnow"
        if kind != belongs:
            return f"{name} is for {belongs}", {"transport": transport.name}
    if transport.family == 6 and kind in RADIOS:
        return f"ipv6 is for udp and tcp, not for {kind}", {"transport": transport.name}
    allowed = {"ble": ("loss",), "espnow": ("loss", "corrupt")}.get(kind)
    if allowed is not None:
        rest = replace(
            impairment, loss=0.0, corrupt=0.0 if kind == "espnow" else impairment.corrupt
        )
        if rest != clean:
            return f"on {kind}'s modelled air a link has {' and '.join(allowed)} only", both
    nodes = {"boards": boards.name, "transport": transport.name}
    if boards.boardless and cell.meter.meter not in ("none", MODELLED):
        return "without boards there is nothing to meter", {
            "boards": boards.name, "meter": cell.meter.name,
        }  # fmt: skip
    if boards.boardless:
        modelled = replace(impairment, loss=0.0)
        if boards.name == MODELLED and (modelled != clean or impairment.loss >= 1):
            return "the cost model knows of a link's loss only, below 1", {
                "boards": MODELLED, "link": cell.link.name,
            }  # fmt: skip
    elif cell.heads != 1:
        return "several heads need use: simulated", {"boards": boards.name}
    if boards.attached and kind in RADIOS and impairment != clean:
        return "a real air is spoilt by hand, not by a relay", {**both, "boards": boards.name}
    on_host = isinstance(boards.tail, kinds.Host)
    if boards.attached and on_host and kind == "espnow" and boards.bridge is None:
        return "a tail on the host over ESP-NOW from real boards needs a `bridge`", nodes
    if any(isinstance(node, Emulated) for node in (boards.head, *boards.relays, boards.tail)) and (
        kind in RADIOS or transport.family == 6
    ):
        return "emulated boards have udp and tcp over IPv4 only", nodes
    if boards.relays and cell.cut and len(boards.relays) != len(cell.cut) - 1:
        return (
            f"{len(boards.relays)} relays do not fit {len(cell.cut) + 1} stages",
            {"boards": boards.name, "cut": cut_name(cell.cut)},
        )
    return None
