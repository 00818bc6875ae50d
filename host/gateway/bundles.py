"""What a gateway serves: bundles read from folders, each the last stage of a chain."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from host.gateway import wire
from host.gateway.engine import Trial
from host.gateway.wire import Kind
from host.link.messages import EVERY_CODEC
from host.link.session import Node
from models.errors import TinysplitError
from partitioner import bundle as bundle_files
from partitioner import kernels
from partitioner.bundle import Bundle
from partitioner.graph import Graph

DEVICE_KERNELS = "tflite-micro"  # As `partitioner.kernels` names them.
TENSOR_HEAD_BYTES = 8 + 4 * 8  # SPEC 6.1, with as many tensors as there may be.


class GatewayError(TinysplitError):
    """A gateway that cannot be what it was asked to be."""


@dataclass(eq=False)
class Served:
    """A bundle whose last stage is served.

    `key` is its number among the engines; `trial` what they found; `heads` its sessions;
    `retired_us`: when a newer bundle of the same folder took over, None while it is current;
    `used_us`: when it last was seen with a head after that.
    """

    key: int
    folder: Path
    bundle: Bundle
    kernels: str
    node: Node = field(init=False)
    trial: Trial | None = None
    heads: int = 0
    retired_us: int | None = None
    used_us: int = 0

    def __post_init__(self) -> None:
        manifest = self.bundle.manifest
        count = len(manifest.stages)
        if count < 2:
            raise GatewayError(f"{self.folder} has one stage, so nothing of it is behind a link")
        graph = Graph(self.bundle.stages[-1])
        if any(tensor.variable for tensor in graph.tensors):
            raise GatewayError(
                f"the last stage of {self.folder} keeps state from one inference to the next; "
                "heads cannot share it"
            )
        self.node = Node.tail(bytes.fromhex(manifest.id), count, codecs=EVERY_CODEC)

    @property
    def id(self) -> str:
        return self.bundle.manifest.id

    @property
    def label(self) -> str:
        """Short, for people and metrics."""
        return self.id[:12]

    @property
    def exact(self) -> bool:
        """Whether it runs on the device's own kernels, and they gave its own bytes here."""
        trial = self.trial
        return trial is not None and trial.exact and trial.kernels.startswith(DEVICE_KERNELS)

    @property
    def stage(self) -> int:
        return len(self.bundle.manifest.stages) - 1

    @property
    def boundary_bytes(self) -> int:
        """Bytes of one boundary, uncoded."""
        return sum(tensor.bytes for tensor in self.bundle.manifest.received(self.stage))

    @property
    def message_bytes(self) -> int:
        """The longest TENSOR body that makes sense: codec 1 adds a byte for each tensor."""
        return (
            self.boundary_bytes + TENSOR_HEAD_BYTES + len(self.bundle.manifest.received(self.stage))
        )

    def load(self) -> bytes:
        """What engines are told to load it."""
        manifest = self.bundle.manifest
        selftest = self.bundle.selftest()
        vectors = int(manifest.selftest["vectors"])
        groups = (
            (f"boundary_{self.stage - 1}", len(manifest.received(self.stage))),
            ("output", len(manifest.outputs)),
        )
        golden = b"".join(
            np.ascontiguousarray(selftest[f"{group}_{i}"][v]).tobytes()
            for group, count in groups
            for v in range(vectors)
            for i in range(count)
        )
        data = self.bundle.stages[self.stage]
        head = json.dumps(
            {
                "manifest": manifest.to_json(),
                "stage": self.stage,
                "file_bytes": len(data),
                "kernels": self.kernels,
                "name": kernels.by_name(self.kernels).name,
                "vectors": vectors,
            }
        ).encode()
        return wire.pack(Kind.LOAD, head + data + golden, key=self.key, code=len(head))


def read(key: int, folder: Path, chosen: str) -> Served:
    """The bundle in a folder.

    Raises:
        BundleError, ManifestError: there is none, or it is damaged.
        GatewayError: it cannot be served.
    """
    return Served(key, folder, bundle_files.read(folder), chosen)
