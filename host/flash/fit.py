"""Whether a build, a stage and a board go together: chip, flash, PSRAM, signatures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from host.boards import address
from host.flash import nvs
from host.flash.board import Found
from host.flash.build import CHIP, Build, BuildError
from partitioner import image as images
from partitioner.command import size
from partitioner.cost.memory import StageMemory, internal_free
from partitioner.graph import Graph
from partitioner.image import Image, ImageError

# The most that an ESP32-S3 leaves for an arena, with no radio running: more never fits inside.
INTERNAL_BYTES = internal_free(())


class UnfitError(BuildError):
    """The board is not one that this build and this stage could run on."""


def check_build(build: Build) -> None:
    """Raises BuildError for builds of other chips, and for the emulator's."""
    if build.chip != CHIP:
        raise BuildError(f"{build.place} is a build for {build.chip}, not for {CHIP}")
    if build.ethernet:
        raise BuildError(
            f"{build.place} is a build for the emulator, without radio: build the environment "
            "esp32s3 or esp32s3-nopsram"
        )


def check_image(build: Build, image: Image, *, signed: bool) -> None:
    """Raises ImageError for images that a board with this build would refuse."""
    if image.kind != images.STAGE:
        raise ImageError("the image is a firmware, not a stage; --build names a firmware")
    if image.chip not in (images.CHIPS["any"], images.CHIPS[CHIP]):
        names = {number: name for name, number in images.CHIPS.items()}
        other = names.get(image.chip, f"chip {image.chip}")
        raise ImageError(f"the image is for {other}, not for {CHIP}", "image_chip")
    if not signed and build.unsigned is False:
        raise ImageError(
            f"the firmware in {build.place} takes signed images only; sign with --key",
            "image_no_key",
        )


def arena_bytes(image: Image) -> int:
    """The arena the stage needs on an ESP32-S3 with ESP-NN, modelled (partitioner.cost.memory)."""
    graph = Graph(image.model)
    return StageMemory(graph).arena(0, len(graph.operators)).total


def lacking(settings: Mapping[str, Any], stage: int | None, stages: int) -> list[str]:
    """What a board with these settings will want before it can work; it may be told later.

    Args:
        stage: which of `stages` it runs; None: none.
    """
    found = []
    if stage is not None and stage + 1 < stages and not settings.get("next"):
        found.append(
            f"stage {stage} of {stages} knows no next stage: --set next=ADDRESS, or let `run`, "
            "`bench` or `configure` tell it"
        )
    listen = address.parse(settings.get("listen", nvs.DEFAULT_LISTEN))
    wants = stage is not None and listen.transport not in address.RADIOS
    if (wants or settings.get("mqtt_url")) and not settings.get("wifi_ssid"):
        user = listen.transport if wants else "MQTT"
        found.append(f"{user} needs a network, and none is set: --wifi-ssid NAME")
    return found


def check_board(build: Build, found: Found, arena: int | None) -> None:
    """Raises UnfitError.

    Args:
        arena: what the stage needs; None: there is no stage.
    """
    if found.flash_bytes < build.flash_bytes:
        raise UnfitError(
            f"the board has {found.flash_bytes >> 20} MB of flash, and the build needs "
            f"{build.flash_bytes >> 20} MB; build with a partition table that fits"
        )
    if arena is None or arena <= INTERNAL_BYTES:
        return
    needs = (
        f"the stage needs an arena of about {size(arena)} (modelled), more than the "
        f"{size(INTERNAL_BYTES)} of internal memory"
    )
    instead = "cut elsewhere (`partition --list`), or take a board that has"
    if build.psram == "none":
        raise UnfitError(f"{needs}, and the build uses no PSRAM; build the environment {CHIP}")
    if found.psram == "none":
        raise UnfitError(f"{needs}, and the board has no PSRAM (by its eFuses); {instead}")
    if None not in (build.psram, found.psram) and build.psram != found.psram:
        raise UnfitError(
            f"{needs}, and the board's PSRAM is {found.psram}, the build's {build.psram}; build "
            "with the board's kind of PSRAM"
        )
