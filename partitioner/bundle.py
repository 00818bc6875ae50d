"""Bundles: a cut network on disk, verified before it is written and when it is opened."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import TinysplitError
from partitioner import arena, kernels, manifest
from partitioner.chain import Chain
from partitioner.cut import Stage, split
from partitioner.graph import Cut, Graph
from partitioner.kernels import Array, Kernels
from partitioner.manifest import Boundary, Manifest, OperatorSpec, Route, StageSpec, TensorSpec
from partitioner.output import whole_folder

VERIFY_INPUTS = 20
SELFTEST_VECTORS = 4
_NOISE_SEED = 1

_TOOLS = ("tinysplit", "tensorflow-cpu", "tensorflow", "keras", "tflite-micro", "ai-edge-litert")


class BundleError(TinysplitError):
    """A bundle that is incomplete, damaged or not one."""


class InexactError(TinysplitError):
    """The stages do not compute what the uncut model computes."""


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: its manifest and the bytes of its files by name."""

    manifest: Manifest
    files: dict[str, bytes]

    @property
    def full(self) -> bytes:
        return self.files["full.tflite"]

    @property
    def stages(self) -> tuple[bytes, ...]:
        return tuple(self.files[stage.file] for stage in self.manifest.stages)

    def selftest(self) -> dict[str, Array]:
        """The arrays of selftest.npz; the schema says which.

        Raises:
            BundleError: it does not hold them.
        """
        try:
            with np.load(io.BytesIO(self.files["selftest.npz"]), allow_pickle=False) as archive:
                arrays = dict(archive)
        except Exception as error:  # zipfile, zlib and numpy each raise their own kinds.
            raise BundleError(f"selftest.npz cannot be read: {error}") from error
        m = self.manifest
        groups = {"input": m.inputs, "output": m.outputs}
        groups |= {f"boundary_{k}": b.tensors for k, b in enumerate(m.boundaries)}
        vectors = m.selftest["vectors"]
        wanted = {
            f"{group}_{i}": ((vectors, *tensor.shape), np.dtype(tensor.dtype))
            for group, tensors in groups.items()
            for i, tensor in enumerate(tensors)
        }
        wanted["crc32"] = ((vectors, m.selftest["operator_outputs"]), np.dtype(np.uint32))
        if {name: (a.shape, a.dtype) for name, a in arrays.items()} != wanted:
            raise BundleError("selftest.npz does not hold the arrays the manifest describes")
        return arrays

    def chain(self, chosen: Kernels) -> Chain:
        """The stages, loaded."""
        return Chain(self.manifest, self.stages, chosen)

    def write(self, folder: Path, *, force: bool = False) -> None:
        """Write it whole or not at all.

        Raises:
            OutputError: `folder` exists and `force` is not set, or cannot be written.
        """
        with whole_folder(folder, force=force) as temporary:
            for name, data in self.files.items():
                (temporary / name).write_bytes(data)
            (temporary / "manifest.json").write_text(self.manifest.to_json())


def read(folder: Path) -> Bundle:
    """The bundle in `folder`, every file checked against its SHA-256.

    Raises:
        BundleError: no bundle there, or a file missing or changed.
        ManifestError: its manifest is not valid.
    """
    try:
        text = _contents(folder / "manifest.json").decode("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        why = "no manifest.json in it" if folder.exists() else "it does not exist"
        raise BundleError(f"{folder} is not a bundle ({why})") from error
    except (OSError, UnicodeDecodeError) as error:
        why = str(error.strerror if isinstance(error, OSError) else error)
        raise BundleError(f"{folder / 'manifest.json'} cannot be read: {why}") from error
    parsed = manifest.parse(text)
    files = {}
    for name, digest in parsed.files.items():
        try:
            data = _contents(folder / name)
        except OSError as error:
            raise BundleError(f"{folder / name} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise BundleError(f"{folder / name} is not the file the manifest describes; it changed")
        files[name] = data
    expected = {"full.tflite", "selftest.npz", *(stage.file for stage in parsed.stages)}
    if missing := sorted(expected - files.keys()):
        raise BundleError(f"the manifest in {folder} does not list {', '.join(missing)}")
    bundle = Bundle(parsed, files)
    _check_files(bundle)
    return bundle


def _contents(path: Path) -> bytes:
    """A file's bytes. Of what is none, a pipe or a device, reading might never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file")
    return path.read_bytes()


def _check_files(bundle: Bundle) -> None:
    """Hold every model file against what the manifest says of it.

    Raises:
        BundleError: they disagree.
    """
    m = bundle.manifest

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise BundleError(f"the manifest and the files contradict each other: {what}")

    full = Graph(bundle.full)
    demand(tuple(spec(full, i) for i in full.inputs) == m.inputs, "inputs of full.tflite")
    demand(tuple(spec(full, i) for i in full.outputs) == m.outputs, "outputs of full.tflite")
    count = sum(len(stage.operators) for stage in m.stages)
    demand(count == len(full.operators), "operators of full.tflite")
    for number, (stage, data) in enumerate(zip(m.stages, bundle.stages, strict=True)):
        graph, received = Graph(data), m.received(number)
        inputs = tuple(received[i] for i in stage.inputs)
        demand(tuple(spec(graph, i) for i in graph.inputs) == inputs, f"inputs of {stage.file}")
        outputs = tuple(spec(graph, i) for i in graph.outputs)
        demand(outputs == stage.outputs, f"outputs of {stage.file}")
        kinds = tuple(op.kind for op in graph.operators)
        demand(kinds == tuple(op.kind for op in stage.operators), f"operators of {stage.file}")
    for position, boundary in zip(m.cut_positions, m.boundaries, strict=True):
        crossing = tuple(spec(full, i) for i in full.crossing(position))
        demand(crossing == boundary.tensors, f"boundary after {boundary.layer}")


def spec(graph: Graph, index: int) -> TensorSpec:
    """A tensor of the graph as the manifest describes it."""
    tensor = graph.tensors[index]
    return TensorSpec(tensor.name, tensor.shape, tensor.dtype.name, tensor.scale, tensor.zero_point)


def build(
    graph: Graph,
    cuts: Sequence[tuple[str, Cut]],
    *,
    model: dict[str, Any],
    calibration: dict[str, Any] | None,
    realistic: Sequence[Sequence[Array]],
    report: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Cut `graph` and prove that the stages equal it.

    Args:
        cuts: name and cut, in execution order.
        model, calibration: as in the manifest.
        realistic: sets of quantized inputs made from real images; may be empty. They and uniform
            noise make up VERIFY_INPUTS sets.
        report: told the name of each step.

    Raises:
        KernelError: TensorFlow Lite Micro cannot run the model.
        InexactError: a byte differs.
    """
    report("cut")
    stages = split(graph, tuple(cut.position for _, cut in cuts))
    report("arena")
    every = [graph.data, *(stage.data for stage in stages)]
    uses: list[int | None] = [None] * len(every)
    if kernels.available():
        uses = [use.total for use in arena.measure(every)]

    operators = _operators(graph)
    draft = Manifest(
        format=manifest.FORMAT,
        model=model,
        tools=tool_versions(),
        calibration=calibration,
        inputs=tuple(spec(graph, i) for i in graph.inputs),
        outputs=tuple(spec(graph, i) for i in graph.outputs),
        boundaries=tuple(
            Boundary(name, cut.payload_bytes, tuple(spec(graph, i) for i in cut.tensors))
            for name, cut in cuts
        ),
        stages=tuple(
            _stage_spec(graph, number, stage, use, operators)
            for number, (stage, use) in enumerate(zip(stages, uses[1:], strict=True))
        ),
        full={
            "file": "full.tflite",
            "flash_bytes": len(graph.data),
            "arena_bytes": uses[0],
            "macs": graph.macs(),
        },
        selftest={},
        verification={},
        accuracy=None,
        files={},
    )
    report("verify")
    inputs = [*realistic, *_noise(graph, max(VERIFY_INPUTS - len(realistic), 1))]
    verification, arrays = verify(graph, draft, [stage.data for stage in stages], inputs)
    verification |= {"images": len(realistic), "noise": len(inputs) - len(realistic)}

    files = {"full.tflite": graph.data}
    files |= {s.file: stage.data for s, stage in zip(draft.stages, stages, strict=True)}
    files["selftest.npz"] = _npz(arrays)
    finished = replace(
        draft,
        selftest={
            "file": "selftest.npz",
            "vectors": len(arrays["crc32"]),
            "kernels": verification["kernels"],
            "operator_outputs": arrays["crc32"].shape[1],
        },
        verification=verification,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    return Bundle(finished, files)


def verify(
    graph: Graph, draft: Manifest, stages: Sequence[bytes], inputs: Sequence[Sequence[Array]]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Run `inputs` through the uncut model and the stages; compare every byte between them.

    Returns the manifest's `verification` and the arrays of selftest.npz, whose golden inputs
    are the first and the last of `inputs`, so images and noise where there are both.

    Raises:
        InexactError: a byte differs; says where.
    """
    exact = kernels.exact()
    plain = exact.load(graph.data, arena_bytes=draft.full["arena_bytes"])
    keeping = exact.load(graph.data, keep_tensors=True)
    chain = Chain(draft, stages, exact)
    boundaries = [graph.crossing(stop) for stop in draft.cut_positions]

    half = SELFTEST_VECTORS // 2
    golden = {*range(half), *range(len(inputs) - half, len(inputs))}
    columns: dict[str, list[Array]] = {}
    compared = 0
    for number, values in enumerate(inputs):
        for one in (plain, keeping, chain):
            one.reset()  # Every golden input starts from rest, as a board's self-test does.
        expected = plain.run(values)
        kept = keeping.run(values)
        passage = chain.run(values)
        checks: list[tuple[str, Sequence[Array], Sequence[Array]]] = [
            ("the uncut model run twice", expected, kept),
            ("the outputs", expected, passage.outputs),
        ]
        for name, tensors, message in zip(
            (b.layer for b in draft.boundaries), boundaries, passage.messages, strict=True
        ):
            reference = [keeping.tensor(i) for i in tensors]
            checks.append((f"the boundary at {name}", reference, message))
        for where, wanted, found in checks:
            for a, b in zip(wanted, found, strict=True):
                compared += a.nbytes
                if a.tobytes() != b.tobytes():
                    count = int((a.reshape(-1) != b.reshape(-1)).sum())
                    raise InexactError(
                        f"{count} of {a.size} values differ in {where} for input {number}; "
                        "no bundle was written"
                    )
        if number not in golden:
            continue
        row = {f"input_{i}": value for i, value in enumerate(values)}
        row |= {f"output_{i}": value for i, value in enumerate(expected)}
        for k, message in enumerate(passage.messages):
            row |= {f"boundary_{k}_{i}": value for i, value in enumerate(message)}
        made = [i for op in graph.operators for i in op.outputs]
        crcs = [zlib.crc32(np.ascontiguousarray(keeping.tensor(i)).tobytes()) for i in made]
        row["crc32"] = np.array(crcs, np.uint32)
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    result = {"kernels": exact.name, "compared_bytes": compared, "differing_bytes": 0}
    return result, {key: np.stack(values) for key, values in columns.items()}


def tool_versions() -> dict[str, str]:
    """Installed versions of the packages whose code shapes a bundle's bytes."""
    installed = {
        d.metadata["Name"].lower().replace("_", "-"): d.version
        for d in importlib.metadata.distributions()
    }
    return {name: installed[name] for name in _TOOLS if name in installed}


def _operators(graph: Graph) -> list[OperatorSpec]:
    specs, column = [], 0
    for op in graph.operators:
        shapes = tuple(graph.tensors[i].shape for i in op.outputs)
        specs.append(OperatorSpec(op.kind, op.macs, shapes, column))
        column += len(op.outputs)
    return specs


def _stage_spec(
    graph: Graph, number: int, stage: Stage, arena_bytes: int | None, operators: list[OperatorSpec]
) -> StageSpec:
    def route(tensor: int) -> Route:
        if tensor in stage.outputs:
            return Route("output", stage.outputs.index(tensor))
        return Route("received", stage.received.index(tensor))

    return StageSpec(
        file=f"stage{number}.tflite",
        flash_bytes=len(stage.data),
        arena_bytes=arena_bytes,
        macs=graph.macs(stage.start, stage.stop),
        operator_kinds=graph.kinds(stage.start, stage.stop),
        operators=tuple(operators[stage.start : stage.stop]),
        inputs=tuple(stage.received.index(t) for t in stage.inputs),
        outputs=tuple(spec(graph, t) for t in stage.outputs),
        sent=tuple(route(t) for t in stage.sent),
    )


def _noise(graph: Graph, count: int) -> list[list[Array]]:
    """Sets of inputs, uniform over all values of each dtype (0 to 3 for wide integers)."""
    rng = np.random.default_rng(_NOISE_SEED)

    def one(index: int) -> Array:
        tensor = graph.tensors[index]
        if tensor.dtype.kind == "b" or tensor.dtype.itemsize > 1:
            # Flags, or most likely indices, which must stay small.
            top = 2 if tensor.dtype.kind == "b" else 4
            return rng.integers(0, top, tensor.shape).astype(tensor.dtype)
        limits = np.iinfo(tensor.dtype)
        return rng.integers(limits.min, limits.max + 1, tensor.shape, tensor.dtype)

    return [[one(index) for index in graph.inputs] for _ in range(count)]


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """An .npz file whose bytes depend on nothing but the arrays; numpy's vary with Python."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
    return sink.getvalue()
