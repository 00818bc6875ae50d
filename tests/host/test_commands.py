"""What every command does with what makes no sense: 2 and one line for what stands on the command
line, 1 and one line for files whose content is wrong; nobody ever reads a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from host import cli
from partitioner import cli as partition_cli
from partitioner.command import Command, Group
from tests.conftest import DATA

Invoke = Callable[..., Result]

# What stands on the command line: `{bundle}` is a bundle, `{text}` a file of other things.
USAGE = [
    ("", "no command", "rnu", "did you mean 'run'?"),
    ("", "No such option", "--verison", "--version"),
    ("keys", "no command", "nw", "did you mean 'new'?"),
    ("run", "does not exist", "nowhere", ""),
    ("run", "No such option", "{bundle} --los 0.1", "--loss"),
    ("run", "is neither board", "{bundle} --transport udp --tail nobody", ""),
    ("run", "not one of", "{bundle} --transport upd", "'udp'"),
    ("run", "no folder of images", "{bundle} --images nowhere", "digits"),
    ("run", "name must end in", "{bundle} --save-figure run.gif", ".png"),
    ("run", "does not exist", "{bundle} --transport espnow --lmk-file nowhere", ""),
    ("run", "not in the range", "{bundle} --count 0", ""),
    ("board", "does not exist", "nowhere --stage 0", ""),
    ("board", "is no address", "{bundle} --stage 2 --listen nowhere", ""),
    ("board", "does not exist", "{bundle} --stage 2 --public-key nowhere", ""),
    ("boards", "not a valid", "--udp-port x", ""),
    ("air", "not one of", "udp", "'espnow'"),
    ("cmd", "no command", "serial:x ifno", "info"),
    ("cmd", "is no address", "a://b info", "udp://"),
    ("cmd", "is neither", "serial:x info --bridge nobody", "serial:PORT"),
    ("cmd", "does not exist", "kitchen info --mqtt-ca nowhere", ""),
    ("cmd", "no URL of a broker", "kitchen info --broker http://x", "mqtt://"),
    ("monitor", "no name of a node", "a/b", ""),
    ("monitor", "not in the range", "--seconds 0", ""),
    ("board", "no URL of a broker", "{bundle} --stage 2 --name x --mqtt http://x", "mqtt://"),
    ("board", "needs --name", "{bundle} --stage 2 --mqtt mqtt://x", ""),
    ("monitor", "does not exist", "--mqtt-ca nowhere", ""),
    ("bench", "does not exist", "nowhere.yaml", ""),
    ("live", "does not exist", "nowhere", ""),
    ("report", "does not exist", "nowhere", ""),
    ("sim", "does not exist", "nowhere.yaml", ""),
    ("sim", "needs --replay", "{text} --trace x", ""),
    ("plan", "did you mean 'espnow'", "--transport espnwo", ""),
    ("plan", "did you mean", "--node esp32s2", "esp32s3"),
    ("plan", "not one of", "--objective latnecy", "latency"),
    ("plan", "no network", "--model mobilenet", "mobilenet_v2"),
    ("plan", "no file", "--model nowhere.tflite", ""),
    ("plan", "does not exist", "--calibration-file nowhere", ""),
    ("calibrate", "does not exist", "nowhere {bundle}", ""),
    ("calibrate", "does not exist", "{text} nowhere", ""),
    ("pack", "does not exist", "nowhere --unsigned", ""),
    ("pack", "does not exist", "{bundle} --key nowhere", ""),
    ("pack", "is no stage", "{bundle} --unsigned --stage first", ""),
    ("pack", "is no version of a firmware", "{bundle} --unsigned --min-firmware 1", ""),
    ("ota", "does not exist", "nowhere --node head=serial:x", ""),
    ("ota", "is no stage", "{bundle} --unsigned --node front=serial:x", "head, tail"),
    ("ota", "names no board", "{bundle} --unsigned --node head=nobody", "udp://HOST:PORT"),
    ("ota", "STAGE=NAME", "{bundle} --unsigned --node head", ""),
    ("ota", "is not named", "{bundle} --unsigned --node head=serial:x", "--partial"),
    ("ota", "does not exist", "{bundle} --unsigned --fleet nowhere.yaml", ""),
    ("ota", "is neither", "{bundle} --unsigned --partial --node 0=serial:x --bridge x", ""),
    ("flash", "does not exist", "nowhere --role head", ""),
    ("broker", "does not exist", "--tls-cert nowhere --tls-key nowhere", ""),
    ("broker", "no name for a user", "--add-user a/b --role node", "letters"),
    ("gateway", "does not exist", "nowhere", ""),
    ("flash", "does not exist", "--build nowhere --role bridge", ""),
    ("flash", "not one of", "{bundle} --role haed", "head"),
    ("flash", "the nearest is", "{bundle} --role head --set wifi_sid=x", "wifi_ssid"),
    ("partition", "either --list or --layer", "", ""),
    ("partition", "no network", "--list --model mobilenet", "mobilenet_v2"),
    ("partition", "no file", "--list --model nowhere.tflite", ""),
    ("partition", "no weights file", "--list --weights nowhere", "digits"),
    ("partition", "has no alpha", "--list --model resnet50 --weights random --alpha 1", ""),
    ("partition", "no layer", "--model {tflite} --layer nowhere", ""),
    ("partition", "name must end in", "--model {tflite} --list --plot x.gif", ".png"),
    ("partition", "no number of bytes", "--model {tflite} --list --ram much", ""),
]

# Files that are there, and wrong.
CONTENT = [
    ("run", "{folder}", "is not a bundle"),
    ("board", "{folder} --stage 0", "is not a bundle"),
    ("bench", "{text}", "{text}"),
    ("sim", "{text}", "{text}"),
    ("live", "{folder}", "holds no results"),
    ("report", "{folder}", "holds no results"),
    ("calibrate", "{text} {bundle}", "{text}"),
    ("plan", "--calibration-file {text} --model {tflite}", "{text}"),
    ("pack", "{folder} --unsigned", "is not a bundle"),
    ("pack", "{bundle} --key {text}", "{text}"),
    ("ota", "{folder} --node head=serial:x", "neither a bundle"),
    ("ota", "{bundle} --unsigned --fleet {text}", "{text}"),
    ("ota", "--firmware {text} --unsigned --node head=serial:x", "no application"),
    ("flash", "--build {folder} --role bridge", "{folder}"),
    ("partition", "--list --model {text}", "{text}"),
    ("gateway", "{folder}", "is not a bundle"),
]


@pytest.fixture
def names(folder: Path, tmp_path: Path) -> dict[str, Path]:
    text, empty = tmp_path / "text", tmp_path / "empty"
    text.write_text("- [1, {\n")
    empty.mkdir()
    return {"bundle": folder, "text": text, "folder": empty, "tflite": DATA / "stranger.tflite"}


def called(invoke: Invoke, command: str, arguments: str, names: dict[str, Path]) -> Result:
    words = [word.format(**names) for word in arguments.split()]
    if command == "partition":
        return invoke(partition_cli.main, *words)
    return invoke(cli.main, *([command] if command else []), *words)


def one_line(result: Result, command: str) -> str:
    assert "Traceback" not in result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    problems = [line for line in lines if ": error: " in line]
    assert len(problems) == 1, result.stderr
    assert problems == lines[-1:]
    assert len(problems[0]) < 700
    return problems[0]


@pytest.mark.parametrize(("command", "message", "arguments", "hint"), USAGE)
def test_wrong_on_the_command_line_is_2(
    invoke: Invoke,
    names: dict[str, Path],
    command: str,
    message: str,
    arguments: str,
    hint: str,
) -> None:
    result = called(invoke, command, arguments, names)
    assert result.exit_code == 2, result.output
    said = one_line(result, command)
    assert message in said
    assert hint in said


@pytest.mark.parametrize(("command", "arguments", "message"), CONTENT)
def test_wrong_in_a_file_is_1(
    invoke: Invoke, names: dict[str, Path], command: str, arguments: str, message: str
) -> None:
    result = called(invoke, command, arguments, names)
    assert result.exit_code == 1, result.output
    assert message.format(**names) in one_line(result, command)


def every_command(group: click.Group, context: click.Context) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            below = every_command(command, context)
            found += [(f"{name} {inner}", one) for inner, one in below]
        found.append((name, command))
    return found


def test_all_commands_are_in_the_tables_and_behave_alike(invoke: Invoke) -> None:
    context = click.Context(cli.main, info_name="tinysplit")
    covered = {row[0] for row in (*USAGE, *CONTENT)}
    for name, command in every_command(cli.main, context):
        assert isinstance(command, Command | Group), name
        assert name.split()[0] in covered, name
        helped = invoke(cli.main, *name.split(), "--help")
        assert helped.exit_code == 0, name
        assert "-h, --help" in helped.output, name
        unknown = invoke(cli.main, *name.split(), "--no-such-option")
        assert unknown.exit_code == 2, name
        assert unknown.stderr.count("\n") == 1, (name, unknown.stderr)
        if isinstance(command, Command):
            assert any(one.name == "verbose" for one in command.params), name


def test_the_list_of_commands_imports_none_of_them(invoke: Invoke) -> None:
    """Each board is a process that begins with `host.cli`, too."""
    code = (
        "import sys; from host.cli import main; main(['--help'], standalone_mode=False);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stderr.split()
    for name, (place, brief) in cli.Commands.table.items():
        assert re.search(rf"^  {name} +{re.escape(brief)}$", done.stdout, re.MULTILINE)
        assert place.partition(":")[0] not in imported
    assert list(cli.Commands.table) == sorted(cli.Commands.table)
    for heavy in ("tensorflow", "pandas", "matplotlib", "esptool", "bleak", "bumble", "paho"):
        assert heavy not in imported
