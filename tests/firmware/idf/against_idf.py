"""Holds the firmware and idf.h against a real ESP-IDF: against_idf.py IDF [options].

For a person with an ESP-IDF tree; CI has none. Two things are done, each for the boards' and the
emulator's configuration:

1. `sdkconfig.h` is made by Espressif's own kconfgen from the tree's Kconfig files and the
   firmware's sdkconfig.defaults, and every file of firmware/main is compiled for Xtensa (syntax
   and warnings; nothing is linked) with the tree's headers.
2. Every name of idf.h is compared with the tree's header of the same path: functions and variables
   by type, types member by member, constants by value, other macros by existence.

It needs clang-22 with its Python bindings (Debian: clang-22 python3-clang-22
picolibc-xtensa-lx106-elf), kconfgen (pip: esp-idf-kconfig) in --kconfgen's Python, and the
submodules esp-nimble, esp-lwip, esp-mqtt and cJSON in the tree or by option.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[2]
LIBC: Final = Path("/usr/lib/xtensa-lx106-elf/include")
# GCC for the ESP32-S3 has 32-bit integers as long, clang as int: format strings tell them apart.
WIDTHS: Final = [
    "-U__INT32_TYPE__",
    "-D__INT32_TYPE__=long int",
    "-U__UINT32_TYPE__",
    "-D__UINT32_TYPE__=long unsigned int",
]
TARGET: Final = ["--target=xtensa-none-elf", "-D_GNU_SOURCE", *WIDTHS]
# Newlib's, which ESP-IDF's headers ask for and picolibc has not.
REENT: Final = "#pragma once\nstruct _reent { int _errno; };\n"

# Folders of headers below components/, as the components' CMakeLists.txt publish them.
FOLDERS: Final = """
newlib/platform_include freertos/config/include freertos/config/include/freertos
freertos/config/xtensa/include freertos/FreeRTOS-Kernel/include
freertos/FreeRTOS-Kernel/portable/xtensa/include
freertos/FreeRTOS-Kernel/portable/xtensa/include/freertos freertos/esp_additions/include
esp_hw_support/include esp_hw_support/include/soc esp_hw_support/include/soc/esp32s3
esp_common/include esp_system/include xtensa/include xtensa/esp32s3/include
xtensa/deprecated_include soc/include soc/esp32s3 soc/esp32s3/include soc/esp32s3/register
hal/include hal/esp32s3/include hal/platform_port/include esp_rom/include esp_rom/include/esp32s3
esp_rom/esp32s3 heap/include log/include esp_timer/include esp_event/include esp_netif/include
esp_eth/include esp_wifi/include esp_wifi/include/local esp_phy/include esp_phy/esp32s3/include
esp_coex/include wpa_supplicant/esp_supplicant/include nvs_flash/include esp_partition/include
app_update/include bootloader_support/include esp_app_format/include
esp_bootloader_format/include spi_flash/include esp_pm/include efuse/include efuse/esp32s3/include
vfs/include console esp_driver_uart/include esp_driver_usb_serial_jtag/include
esp_driver_gpio/include esp_driver_spi/include esp_driver_tsens/include esp_driver_i2c/include
esp_ringbuf/include tcp_transport/include mbedtls/port/include mbedtls/mbedtls/include
mbedtls/esp_crt_bundle/include mqtt/esp-mqtt/include esp-tls esp_http_client/include
esp_https_ota/include json/cJSON bt/include/esp32c3/include bt/common/osi/include
bt/common/api/include/api bt/host/nimble/port/include bt/host/nimble/esp-hci/include
lwip/include lwip/include/apps lwip/include/apps/sntp lwip/port/include
lwip/port/freertos/include lwip/port/esp32xx/include lwip/port/esp32xx/include/arch
lwip/port/esp32xx/include/sys pthread/include esp_mm/include esp_psram/include
"""
NIMBLE: Final = """
nimble/host/include nimble/include nimble/host/services/gap/include
nimble/host/services/gatt/include nimble/host/util/include nimble/host/store/ram/include
porting/nimble/include nimble/transport/include porting/npl/freertos/include
"""
# What is not compared: our own options, and C++, which compiling the engine holds.
UNCOMPARED: Final = ("sdkconfig.h", "new", "cstdint", "tensorflow/")
BLUETOOTH: Final = ("host/", "services/", "nimble/", "os/")
OVERLAYS: Final = {"board": "sdkconfig.psram", "emulator": "sdkconfig.qemu"}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Tree:
    """An ESP-IDF tree, and where what it takes from elsewhere lies."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.components = options.idf / "components"
        self.idf = options.idf
        self.kconfgen = options.kconfgen
        self.cxx = [f"-cxx-isystem{folder}" for folder in options.cxx_include]
        self.work = work
        nimble = options.nimble or self.components / "bt/host/nimble/nimble"
        lwip = options.lwip or self.components / "lwip/lwip"
        folders = [self.components / folder for folder in FOLDERS.split()]
        folders += [nimble / folder for folder in NIMBLE.split()]
        folders += [lwip / "src/include", *options.include]
        shim = work / "shim"
        (shim / "sys").mkdir(parents=True)
        (shim / "sys/reent.h").write_text(REENT)
        (shim / "reent.h").write_text("#include <sys/reent.h>\n")
        folders += [shim, LIBC]
        self.includes = [f"-isystem{folder}" for folder in folders if folder.is_dir()]

    def configure(self, name: str, overlay: str) -> list[str]:
        """Options that name the sdkconfig.h of this configuration, just made."""
        out = self.work / name
        out.mkdir()
        for kind in ("Kconfig", "Kconfig.projbuild"):
            files = sorted(self.components.glob(f"*/{kind}"))
            if kind == "Kconfig.projbuild":
                files += [ROOT / "firmware/main/Kconfig.projbuild"]
            lines = [f'source "{file}"\n' for file in files if file.exists()]
            (out / f"{kind}.in").write_text("".join(lines))
        defaults = [ROOT / "sdkconfig.defaults", ROOT / overlay]
        command = [
            *(self.kconfgen, "-m", "kconfgen", "--kconfig", f"{self.idf}/Kconfig"),
            *(word for file in defaults for word in ("--defaults", str(file)) if file.exists()),
            *("--config", f"{out}/sdkconfig", "--output", "header", f"{out}/sdkconfig.h"),
            *("--env", f"COMPONENT_KCONFIGS_SOURCE_FILE={out}/Kconfig.in"),
            *("--env", f"COMPONENT_KCONFIGS_PROJBUILD_SOURCE_FILE={out}/Kconfig.projbuild.in"),
            *("--env", "IDF_TARGET=esp32s3", "--env", "IDF_TOOLCHAIN=gcc"),
            *("--env", "IDF_ENV_FPGA=", "--env", f"IDF_PATH={self.idf}"),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (out / "sdkconfig.h").exists():
            sys.exit(f"kconfgen failed:\n{run.stdout}{run.stderr}")
        return [f"-I{out}"]


def compile_firmware(tree: Tree, config: list[str]) -> int:
    """How many files of firmware/main do not compile with the tree's headers."""
    main = ROOT / "firmware/main"
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-error=unknown-attributes"]
    failed = 0
    for source in sorted([*main.glob("*.c"), *main.glob("*.cpp")]):
        cxx = ["-xc++", "-std=gnu++17", "-DTF_LITE_STATIC_MEMORY", *tree.cxx]
        language = cxx if source.suffix == ".cpp" else ["-std=gnu17"]
        command = [
            *("clang-22", *TARGET, "-fsyntax-only", *language, *warnings, "-DESP_PLATFORM"),
            *(*config, f"-I{main}", f"-I{ROOT}/firmware/core/include", *tree.includes, str(source)),
        ]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


def parse(path: Path, options: list[str]) -> Any:
    import clang.cindex as cindex

    if not cindex.Config.loaded:
        cindex.Config.set_library_file("/usr/lib/llvm-22/lib/libclang-22.so.1")
    detailed = cindex.TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD
    resources = ["-resource-dir", "/usr/lib/llvm-22/lib/clang/22"]
    return cindex.Index.create().parse(str(path), args=[*resources, *options], options=detailed)


def members(place: str, record: Any) -> Iterator[str]:
    """Assertions about the members of a struct or union that `place` is an lvalue of."""
    for field in record.type.get_canonical().get_fields():
        if field.spelling.startswith("fake"):
            continue
        if not field.spelling.isidentifier():  # an anonymous union: its members are the struct's
            yield from members(place, field)
            continue
        here = f"{place}.{field.spelling}"
        if field.is_bitfield():
            yield f'_Static_assert(sizeof({here} + 0) > 0, "{here}");'
        elif re.search("unnamed|anonymous", field.type.spelling):
            yield from members(here, field)
        else:
            yield same(f"__typeof__({here})", field.type.spelling, here)


def same(real: str, ours: str, what: str) -> str:
    compatible = f"__builtin_types_compatible_p({real}, __typeof__({ours}))"
    return f'_Static_assert({compatible}, "{what}");'


def constants(header: Path, options: list[str], names: list[str]) -> dict[str, int]:
    """Values of those macros that are integers."""
    probe = header.parent / f"probe_{header.name.replace('.h', '.c')}"
    left = list(names)
    while left:
        lines = [f"enum {{ probe_{name} = (int)({name}) }};" for name in left]
        probe.write_text("\n".join([f'#include "{header}"', *lines]))
        unit = parse(probe, options)
        bad = {d.location.line - 2 for d in unit.diagnostics if d.severity >= 3}
        if not bad:
            break
        left = [name for index, name in enumerate(left) if index not in bad]
    else:
        return {}
    found = (c for e in unit.cursor.get_children() for c in e.get_children())
    return {
        c.spelling[6:]: c.enum_value
        for c in found
        if c.kind.name == "ENUM_CONSTANT_DECL" and c.spelling.startswith("probe_")
    }


def assertions(header: Path, options: list[str]) -> Iterator[str]:
    """What must hold with the real header for ours to be right."""
    unit = parse(header, options)
    here = str(header)
    children = unit.cursor.get_children()
    own = [c for c in children if c.location.file and c.location.file.name == here]
    simple, other = [], []
    for c in own:
        name, kind = c.spelling, c.kind.name
        if kind == "MACRO_DEFINITION":
            tokens = [t.spelling for t in c.get_tokens()]
            alike = len(tokens) > 1 and tokens[1] == "(" and _touching(c)
            (other if alike or len(tokens) < 2 else simple).append(name)
        elif kind in ("FUNCTION_DECL", "VAR_DECL"):
            spelled = re.sub(r" __attribute__\(\(.*\)\)", "", c.type.spelling)
            yield same(f"__typeof__({name})", spelled, name)
        elif kind == "ENUM_DECL" and c.is_definition():
            for constant in c.get_children():
                one, value = constant.spelling, constant.enum_value
                yield f'_Static_assert(({one}) == {value}, "{one}");'
        elif kind in ("STRUCT_DECL", "UNION_DECL"):
            if c.is_definition() and c.type.spelling.startswith(("struct ", "union ")):
                yield from members(f"(*({c.type.spelling} *)0)", c)
        elif kind == "TYPEDEF_DECL":
            canonical = c.underlying_typedef_type.get_canonical()
            if canonical.kind.name == "RECORD":
                if not any(f.spelling == "fake" for f in canonical.get_fields()):
                    yield from members(f"(*({name} *)0)", canonical.get_declaration())
            elif canonical.kind.name != "ENUM":
                yield same(name, c.underlying_typedef_type.spelling, name)
            else:
                yield f'_Static_assert(sizeof({name}) == sizeof(int), "{name}");'
    values = constants(header, options, simple)
    for name, value in values.items():
        if not name.startswith(("ESP_IDF_VERSION", "CONFIG_", "TEST_")):
            yield f'_Static_assert((int)({name}) == {value}, "{name}");'
    for name in [*other, *(n for n in simple if n not in values)]:
        yield f'#ifndef {name}\n#error "no macro {name}"\n#endif'


def _touching(macro: Any) -> bool:
    """True for a macro with parameters: the bracket follows the name at once."""
    first, second = list(macro.get_tokens())[:2]
    return bool(second.location.offset == first.location.offset + len(first.spelling))


def compare(tree: Tree, config: list[str], overlay: str, minor: int) -> int:
    """How many headers of idf.h disagree with the tree."""
    stubs = tree.work / f"stubs{len(list(tree.work.glob('stubs*')))}"
    split = [sys.executable, str(HERE / "split.py"), str(stubs), str(ROOT / overlay)]
    subprocess.run(split, check=True)
    sdkconfig = (Path(config[0][2:]) / "sdkconfig.h").read_text()
    nimble = "CONFIG_BT_NIMBLE_ENABLED 1" in sdkconfig
    options = [*TARGET, "-std=gnu17", f"-DTEST_IDF_MINOR={minor}"]
    options += [f"-isystem{LIBC}", f"-I{stubs}"]
    failed = checked = 0
    for header in sorted(file for file in stubs.rglob("*") if file.is_file()):
        path = header.relative_to(stubs)
        if str(path).startswith(UNCOMPARED) or (str(path).startswith(BLUETOOTH) and not nimble):
            continue
        lines = list(assertions(header, options))
        checked += len(lines)
        check = tree.work / "check.c"
        first = ["freertos/FreeRTOS.h"] if str(path).startswith("freertos") else []
        includes = [f'#include "{name}"' for name in ["stdbool.h", "stddef.h", *first, str(path)]]
        check.write_text("\n".join([*includes, *lines, ""]))
        command = [
            *("clang-22", *TARGET, "-std=gnu17", "-fsyntax-only", "-ferror-limit=0"),
            *("-Wno-everything", "-DESP_PLATFORM", *config, *tree.includes, str(check)),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            failed += 1
            wrong = re.findall(r"error: (?:static assertion failed[^:]*: )?(.*)", run.stderr)
            say(f"{path}: " + "; ".join(wrong[:8]))
    say(f"  {checked} names and members compared, {failed} headers disagree")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("idf", type=Path, help="an ESP-IDF tree")
    parser.add_argument("--nimble", type=Path, help="esp-nimble, if not in the tree")
    parser.add_argument("--lwip", type=Path, help="esp-lwip, if not in the tree")
    parser.add_argument("--include", type=Path, action="append", default=[], help="more headers")
    parser.add_argument("--cxx-include", type=Path, action="append", default=[], help="C++ library")
    parser.add_argument("--kconfgen", default=sys.executable, help="Python that has kconfgen")
    options = parser.parse_args()
    version = options.idf / "components/esp_common/include/esp_idf_version.h"
    if not version.exists():
        sys.exit(f"{options.idf} is no ESP-IDF tree: {version} is missing")
    found = re.search(r"ESP_IDF_VERSION_MINOR\s+(\d+)", version.read_text())
    minor = int(found[1]) if found else 0
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        tree = Tree(options, Path(work))
        for name, overlay in OVERLAYS.items():
            say(f"ESP-IDF 5.{minor}, {name}:")
            config = tree.configure(name, overlay)
            wrong = compile_firmware(tree, config)
            say(f"  firmware/main: {wrong} files do not compile")
            failed += wrong + compare(tree, config, overlay, minor)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
