"""The kernels a .tflite file runs on, on this machine.

`exact` is TensorFlow Lite Micro itself (package tflite-micro), the very kernels
of the device; where its wheel does not exist, LiteRT's reference kernels stand in,
and say so by name. `fast` is LiteRT with XNNPACK: an order of magnitude
faster and not the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from models.errors import TinysplitError

Array = NDArray[Any]


class KernelError(TinysplitError):
    """The kernels cannot load or run this model."""


class Interpreter(ABC):
    """A loaded .tflite file, ready to run. Not thread-safe."""

    @abstractmethod
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run once. Arrays are in the file's order, of exactly its shapes and dtypes.

        Raises:
            KernelError: other arrays, or an operator fails.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget what variable tensors kept from runs before."""

    @abstractmethod
    def tensor(self, index: int) -> Array:
        """A tensor's value after the last run; only if loaded with `keep_tensors`."""


class Kernels(ABC):
    """A set of kernels: loads .tflite files. `name` goes into manifests and results."""

    name: str

    @abstractmethod
    def load(
        self, data: bytes, *, arena_bytes: int | None = None, keep_tensors: bool = False
    ) -> Interpreter:
        """Load a .tflite file.

        Args:
            arena_bytes: room for tensors (TensorFlow Lite Micro only); None guesses generously.
                A known need comes from `partitioner.arena`, which also survives a crash.
            keep_tensors: keep every intermediate tensor readable.

        Raises:
            KernelError: an operator these kernels lack, or a model they refuse.
        """


def available() -> bool:
    """Whether TensorFlow Lite Micro's own kernels are installed."""
    return importlib.util.find_spec("tflite_micro") is not None


def exact() -> Kernels:
    """The device's kernels, or LiteRT's reference kernels where those are not to be had."""
    return Tflm() if available() else LiteRtReference()


def by_name(name: str) -> Kernels:
    """`exact` or `fast`, as the command line says it."""
    return exact() if name == "exact" else Xnnpack()


class Tflm(Kernels):
    """TensorFlow Lite Micro's reference kernels."""

    def __init__(self) -> None:
        self.name = f"tflite-micro {importlib.metadata.version('tflite-micro')}"

    def load(
        self, data: bytes, *, arena_bytes: int | None = None, keep_tensors: bool = False
    ) -> Interpreter:
        return _TflmInterpreter(data, arena_bytes, keep_tensors)


class _TflmInterpreter(Interpreter):
    _GUESS = 256 << 20  # Pages that are never touched cost nothing.
    _SLACK = 64 << 10

    def __init__(self, data: bytes, arena_bytes: int | None, keep_tensors: bool) -> None:
        from tflite_micro.python.tflite_micro import runtime

        from partitioner.native_output import captured

        size = self._GUESS if arena_bytes is None or keep_tensors else arena_bytes + self._SLACK
        config = runtime.InterpreterConfig
        reason: Exception | None = None
        with captured(2) as printed:
            try:
                self._interpreter = runtime.Interpreter.from_bytes(
                    data,
                    arena_size=size,
                    intrepreter_config=config.kPreserveAllTensors
                    if keep_tensors
                    else config.kAllocationRecording,
                )
            except Exception as error:  # pybind11 and the schema reader raise several kinds.
                reason = error
        if reason is not None:
            raise KernelError(explain(printed.text, str(reason)))
        self._outputs: int = schema.Model.GetRootAs(data, 0).Subgraphs(0).OutputsLength()

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            for index, value in enumerate(inputs):
                self._interpreter.set_input(value, index)
            self._interpreter.invoke()
            return [self._interpreter.get_output(index) for index in range(self._outputs)]
        except (RuntimeError, ValueError, IndexError) as error:
            raise KernelError(f"TensorFlow Lite Micro cannot run the model: {error}") from error

    def reset(self) -> None:
        self._interpreter.reset()

    def tensor(self, index: int) -> Array:
        value: Array = self._interpreter.GetTensor(index, 0)["tensor_data"]
        return value


class LiteRtReference(Kernels):
    """LiteRT's reference kernels: TFLM's bytes but for rare FULLY_CONNECTED values."""

    def __init__(self) -> None:
        self.name = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')} reference"

    def load(
        self, data: bytes, *, arena_bytes: int | None = None, keep_tensors: bool = False
    ) -> Interpreter:
        return _LiteRtInterpreter(data, "BUILTIN_REF", keep_tensors)


class Xnnpack(Kernels):
    """LiteRT with XNNPACK: fast, and its bytes differ from the device's."""

    def __init__(self) -> None:
        self.name = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')} xnnpack"

    def load(
        self, data: bytes, *, arena_bytes: int | None = None, keep_tensors: bool = False
    ) -> Interpreter:
        return _LiteRtInterpreter(data, "BUILTIN", keep_tensors)


class _LiteRtInterpreter(Interpreter):
    def __init__(self, data: bytes, resolver: str, keep_tensors: bool) -> None:
        from ai_edge_litert.interpreter import Interpreter as LiteRt
        from ai_edge_litert.interpreter import OpResolverType

        from partitioner.native_output import captured

        reason: Exception | None = None
        with captured(2):
            try:
                self._interpreter = LiteRt(
                    model_content=data,
                    experimental_op_resolver_type=OpResolverType[resolver],
                    experimental_preserve_all_tensors=keep_tensors,
                    num_threads=1,
                )
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                reason = error
        if reason is not None:
            raise KernelError(f"LiteRT cannot load the model: {str(reason).splitlines()[0]}")
        self._inputs = [d["index"] for d in self._interpreter.get_input_details()]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            for index, value in zip(self._inputs, inputs, strict=True):
                self._interpreter.set_tensor(index, value)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]
        except (RuntimeError, ValueError) as error:
            raise KernelError(f"LiteRT cannot run the model: {error}") from error

    def reset(self) -> None:
        self._interpreter.reset_all_variables()

    def tensor(self, index: int) -> Array:
        value: Array = self._interpreter.get_tensor(index)
        return value


def explain(printed: str, reason: str) -> str:
    """What TensorFlow Lite Micro printed while it refused a model, as one line."""
    for line in printed.splitlines():
        if "Didn't find op for builtin opcode" in line:
            name = line.split("'")[-2]
            return f"TensorFlow Lite Micro has no operator {name}"
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return f"TensorFlow Lite Micro refuses the model: {lines[-1] if lines else reason}"


def quantize(values: NDArray[np.float32], scale: float, zero_point: int, dtype: Any) -> Array:
    """Float values as quantized integers: round half away from zero, saturate.

    The rounding of TensorFlow Lite's `AffineQuantize` (`TfLiteRound`).
    """
    limits = np.iinfo(dtype)
    scaled: NDArray[np.float64] = values.astype(np.float64) / scale
    rounded = np.trunc(scaled + np.copysign(0.5, scaled)) + zero_point
    result: Array = np.clip(rounded, limits.min, limits.max).astype(dtype)
    return result


def dequantize(values: Array, scale: float | None, zero_point: int | None) -> NDArray[np.float32]:
    """Quantized integers as float32; unquantized ones (`scale` None) as they are."""
    if scale is None:
        return values.astype(np.float32)
    return ((values.astype(np.float64) - (zero_point or 0)) * scale).astype(np.float32)
