"""Two cuts of one model, a key, and their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from host.packing import keys
from host.packing.pack import pack, write
from partitioner.bundle import Bundle, build
from partitioner.catalogue import Catalogue
from partitioner.graph import Graph


@dataclass(frozen=True)
class Cuts:
    """Bundles A and B, and where they and their images (versions 1 and 2) lie."""

    a: Bundle
    b: Bundle
    folder: Path
    key: keys.PrivateKey

    @property
    def key_file(self) -> Path:
        return self.folder / "key"

    @property
    def public_key(self) -> Path:
        return self.folder / "key.pub"


@pytest.fixture(scope="session")
def cuts(
    stranger: Graph, stranger_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Cuts:
    folder = tmp_path_factory.mktemp("ota")
    key = keys.new(folder / "key")
    made = []
    for name, layer, version in (("a", "#1", 1), ("b", "#6", 2)):
        bundle = build(
            stranger,
            Catalogue(stranger, None).chain((layer,)),
            model=stranger_bundle.manifest.model,
            calibration=None,
            realistic=[],
        )
        bundle.write(folder / name)
        write(pack(bundle, range(2), key, version=version), folder / f"images-{name}")
        made.append(bundle)
    return Cuts(made[0], made[1], folder, key)
