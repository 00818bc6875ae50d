"""Debian's stock kernel, downloaded and unpacked but never installed, and an initramfs for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import TinysplitError

META_PACKAGE = "linux-image-amd64"
DOWNLOAD_TIMEOUT_S = 180
UNPACK_TIMEOUT_S = 60
BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
INIT = Path(__file__).parent / "init.sh"


class LaneError(TinysplitError):
    """The lane cannot run, or a guest did not do what it was started for."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package: `root` holds boot/ and lib/modules/RELEASE/."""

    root: Path

    @property
    def image(self) -> Path:
        return next((self.root / "boot").glob("vmlinuz-*"))

    @property
    def modules(self) -> Path:
        return next((self.root / "lib/modules").iterdir())

    def load_order(self, names: Sequence[str]) -> list[Path]:
        """Files of these modules in an order that can be loaded, what they need first.

        Modules that are built into the kernel need no file.

        Raises:
            LaneError: the kernel has no such module.
        """
        needs = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            file, _, others = line.partition(":")
            needs[file] = others.split()
        by_name = {_module_name(file): file for file in needs}
        built_in = (self.modules / "modules.builtin").read_text().splitlines()
        order: list[str] = []
        for name in names:
            if name in by_name:
                wanted = by_name[name]
                order += [f for f in [*reversed(needs[wanted]), wanted] if f not in order]
            elif name not in map(_module_name, built_in):
                raise LaneError(f"the kernel {self.root.name} has no module {name}")
        return [self.modules / file for file in order]


def _module_name(file: str) -> str:
    return Path(file).name.partition(".ko")[0].replace("-", "_")


def _output(command: Sequence[str | Path], timeout_s: float, **options: Path) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=timeout_s, **options
        )
    except subprocess.CalledProcessError as failed:
        said = [line for line in failed.stderr.splitlines() if line.startswith("E:")]
        raise LaneError(
            f"{Path(command[0]).name} failed: {' '.join(said) or failed.stderr.strip()}; "
            "apt-get update, and try again"
        ) from failed
    except subprocess.TimeoutExpired as late:
        raise LaneError(f"{Path(command[0]).name} did not end in {timeout_s:.0f} s") from late
    return done.stdout


def current_package() -> tuple[str, str]:
    """Name and version of the package that Debian's kernel is in today, by apt's lists.

    Raises:
        LaneError: apt does not know.
    """
    shown = _output(["apt-cache", "show", "--no-all-versions", META_PACKAGE], UNPACK_TIMEOUT_S)
    found = re.search(r"^Depends:.*?(linux-image-[^ ,]+) \(= ([^)]+)\)", shown, re.MULTILINE)
    if found is None:
        raise LaneError(f"apt does not know {META_PACKAGE}: apt-get update, on Debian")
    return found[1], found[2]


def fetch(cache: Path) -> Kernel:
    """Debian's current kernel, from `cache` or downloaded into it; older ones are removed there.

    Raises:
        LaneError: it is not to be had; says what to do.
    """
    name, version = current_package()
    target = cache / f"{name}_{version.replace(':', '%3a')}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.iterdir():
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            place = Path(temporary)
            _output(["apt-get", "download", f"{name}={version}"], DOWNLOAD_TIMEOUT_S, cwd=place)
            unpacked = place / "unpacked"
            _output(["dpkg", "-x", *place.glob("*.deb"), unpacked], UNPACK_TIMEOUT_S)
            release = name.removeprefix("linux-image-")
            _output(["busybox", "depmod", "-b", unpacked, release], UNPACK_TIMEOUT_S)
            unpacked.rename(target)
    return Kernel(target)


def pack_initramfs(kernel: Kernel, busybox: Path, target: Path) -> None:
    """Write a cpio archive with init.sh, busybox, and the modules that the host's root needs.

    Raises:
        LaneError: the kernel lacks one of them.
    """
    order = kernel.load_order(BOOT_MODULES)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        tree = Path(temporary)
        for folder in ("bin", "modules", "proc", "sys", "dev", "host", "top", "root"):
            (tree / folder).mkdir()
        shutil.copy(busybox, tree / "bin/busybox")
        shutil.copy(INIT, tree / "init")
        (tree / "init").chmod(0o755)
        for file in order:
            shutil.copy(file, tree / "modules")
        (tree / "order").write_text("".join(f"{file.name}\n" for file in order))
        names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
        with target.open("wb") as archive:
            subprocess.run(
                [busybox, "cpio", "-o", "-H", "newc"],
                cwd=tree,
                input=names.encode(),
                stdout=archive,
                stderr=subprocess.DEVNULL,
                check=True,
                timeout=UNPACK_TIMEOUT_S,
            )
