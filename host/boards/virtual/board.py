"""The program a virtual board runs: control lines in, inferences and answers out.

`tinysplit board` starts it. It serves its sockets and its control line in one thread, and
ends when the control line does.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

from host.boards import address, control
from host.boards.address import RADIOS
from host.boards.control import Command, ControlError, Lines
from host.boards.selftest import SelfTest
from host.boards.virtual.control_line import ControlLine
from host.boards.virtual.core import Core, Settings, role_of
from host.boards.virtual.holding import Holding
from host.boards.virtual.radio import Radio, RadioSetup, create_radio
from host.boards.virtual.settings import Flash, FlashError
from host.link import messages
from host.link.errors import LinkError
from host.link.frames import MIN_MTU
from host.link.messages import MessageKind
from host.link.session import Node, Role
from models.errors import TinysplitError
from partitioner import kernels
from partitioner.chain import StageError
from partitioner.command import describe

Answer = Callable[[bytes], object]
Announce = Callable[[dict[str, Any]], AbstractContextManager[object]]
VERSION = 1  # Of what `info` answers.
_STEP_US = 1_000_000
_FETCHING_STEP_US = 2_000
_LAST_WORDS_STEP_US = 2_000
_LAST_WORDS_S = 0.3  # As firmware/main: an answer gets out before a restart.


class SettingsError(StageError):
    """Settings that contradict the stage or each other."""


class Board:
    """One virtual board.

    Args:
        holding: where its stage comes from.
        flash: where its settings are kept.
        defaults: settings that hold unless the flash has others.
        write: takes a line for whoever controls it.
        announce: what is entered while the board is up, made from what `info` answers.
    """

    def __init__(
        self,
        holding: Holding,
        flash: Flash,
        defaults: dict[str, Any],
        write: Callable[[bytes], None],
        announce: Announce | None = None,
    ) -> None:
        self._announce = announce
        self._announcement = ExitStack()
        self._holding = holding
        self._flash = flash
        self._defaults = defaults
        self._write = write
        self._core: Core | None = None
        self._radio: Radio | None = None
        self._pending: dict[int, tuple[int | str, Answer]] = {}  # By inference: the command.
        self._listening: address.Address | None = None
        self._next_inference = 1
        self._kernels = kernels.exact()
        self.boot()

    def settings(self) -> dict[str, Any]:
        """The defaults, and what the flash has instead."""
        return {**self._defaults, **self._flash.read()}

    def boot(self) -> None:
        """Start from the settings and say `ready`.

        Settings in flash that do not work are left aside, and `ready` says why: no `configure` can
        make a board unreachable.

        Raises:
            TinysplitError: the defaults do not work either.
        """
        stored = self._flash.read()
        self._problem: str | None = None
        self.close()
        self._holding.boot()
        try:
            self._start({**self._defaults, **stored})
        except TinysplitError as error:
            if not stored:
                raise
            self._problem = f"settings in flash left aside: {describe(error)}"
            self._start(self._defaults)
        self._problem = self._problem or self._holding.complaint()
        if self._announce is not None:
            self._announcement.close()
            self._announcement.enter_context(self._announce(self.info()))
        self._write(control.event("ready", info=self.info()))

    def _check(self, chosen: dict[str, Any]) -> Settings:
        """The settings as the core takes them.

        Raises:
            SettingsError, AddressError: they contradict the bundle or each other.
        """
        number, following = chosen["stage"], chosen.get("next")
        last = self._holding.stages(number) - 1
        if (number == last) != (following is None):
            needs = "has no next stage" if number == last else "needs the address of the next stage"
            raise SettingsError(f"next: stage {number} of {last + 1} {needs}")
        listen = address.parse(chosen["listen"])
        target = None if following is None else address.parse(following)
        if target is not None and target.transport != listen.transport:
            raise SettingsError(f"{listen} and {target} do not fit: both of one transport")
        if listen.transport in RADIOS:
            if "air" not in chosen:
                raise SettingsError(f"a virtual board on {listen} needs the setting air")
        elif target is not None and (
            (":" in target.host) != (":" in listen.host) or target.port == 0
        ):
            raise SettingsError(
                f"{listen} and {target} do not fit: both IPv4 or both IPv6, "
                "and the next stage has a port"
            )
        mtu = chosen.get("mtu", 0)
        if mtu != 0 and mtu < MIN_MTU:
            raise SettingsError(f"mtu is 0 (the transport's own) or {MIN_MTU} to 16384, not {mtu}")
        return Settings(
            stage=number,
            listen=listen,
            next=target,
            mtu=mtu,
            window=chosen.get("window", 0),
            timeout_ms=chosen.get("timeout_ms", 10_000),
            codec=chosen.get("codec", "raw"),
        )

    def _start(self, chosen: dict[str, Any]) -> None:
        """Load the stage, test it, open the sockets."""
        settings = self._check(chosen)
        self.close()
        number = settings.stage
        held = self._holding.load(number, self._kernels)
        self._held, self._stage = held, held.stage
        self._selftest: SelfTest = held.selftest()
        if settings.listen.transport in RADIOS:
            role = Role[role_of(number, held.stages).upper()]
            node = Node(role, number, held.stages, bytes.fromhex(held.bundle))
            self._radio = self._start_radio(settings, chosen, node)
        self._core = Core(
            replace(
                settings,
                listen=self._same_port(settings.listen),
                refuse=self._selftest.first_wrong is not None,
            ),
            held.stage,
            held.stages,
            held.bundle,
            sum(held.result_bytes),
            self._radio,
        )
        self._listening = self._core.address
        self._timeout_ms = settings.timeout_ms
        self._active = chosen
        self._booted = time.monotonic()

    def _same_port(self, listen: address.Address) -> address.Address:
        """A port that was any one stays the same over restarts: others know it by now."""
        before = self._listening
        if listen.port == 0 and before is not None and replace(before, port=0) == listen:
            return before
        return listen

    @staticmethod
    def _start_radio(settings: Settings, chosen: dict[str, Any], node: Node) -> Radio:
        name = chosen.get("name", "board")
        setup = RadioSetup(settings.listen, settings.next, chosen["air"], name, chosen, node)
        radio = create_radio(settings.listen.transport, setup)
        if settings.mtu > radio.profile.mtu:
            radio.close()
            raise StageError(
                f"mtu is {settings.mtu}, and this radio's frames carry {radio.profile.mtu} bytes"
            )
        radio.start()
        return radio

    def close(self) -> None:
        """Let go of the core and the radio. Safe to call twice."""
        if self._core is not None:
            self._core.close()
            self._core = None
        if self._radio is not None:
            self._radio.close()
            self._radio = None

    def info(self) -> dict[str, Any]:
        assert self._core is not None
        chosen, held = self._active, self._held
        return {
            "version": VERSION,
            "kind": "virtual",
            "name": chosen["name"],
            "firmware": metadata.version("tinysplit"),
            "role": role_of(chosen["stage"], held.stages),
            "stage": chosen["stage"],
            "stages": held.stages,
            "bundle": held.bundle,
            "model": held.model,
            **held.image,
            "listen": str(self._core.address),
            "radio": self._radio.describe() if self._radio is not None else None,
            "next": chosen.get("next"),
            "kernels": self._kernels.name,
            "selftest": asdict(self._selftest),
            "pid": os.getpid(),
            "problem": self._problem,
            "uptime_ms": round((time.monotonic() - self._booted) * 1000),
        }

    def step(self, control_fd: int, timeout_us: int) -> bool:
        """Serve the link until `control_fd` can be read; returns whether it can."""
        assert self._core is not None
        self._holding.step()
        if self._holding.fetching:
            timeout_us = min(timeout_us, _FETCHING_STEP_US)
        readable, _ = self._core.step(timeout_us, control_fd)
        self._report_results()
        self._take_messages()
        return readable

    def _take_messages(self) -> None:
        """Commands and pieces of updates that came over the link."""
        while self._core is not None and (message := self._core.take_message()) is not None:
            if message.kind == MessageKind.BLOB:
                with contextlib.suppress(LinkError):
                    self._holding.blob(messages.decode_blob(message.body))
                continue
            core = self._core
            self.handle(message.body, lambda line, m=message, c=core: c.answer(m, line.strip()))  # type: ignore[misc]

    def _report_results(self) -> None:
        assert self._core is not None
        while (result := self._core.take_result()) is not None:
            command_id, reply = self._pending.pop(result.inference)
            wanted = self._held.result_bytes
            if result.code == "ok" and tuple(len(t) for t in result.tensors) != wanted:
                result = replace(result, code="malformed", text="not the bundle's output sizes")
            if result.code != "ok":
                text = f": {result.text}" if result.text else ""
                why = f"the inference failed at stage {result.stage} ({result.code}{text})"
                if result.code == "cancelled" and result.stage == self._stage.number:
                    why = "given up on command"
                reply(control.refusal(ControlError(result.code, why), command_id))
                continue
            answer = asdict(result)
            answer["tensors"] = [base64.b64encode(t).decode() for t in result.tensors]
            reply(control.reply(command_id, answer))

    def handle(self, line: bytes, reply: Answer | None = None) -> None:
        """Answer one control line, to `reply` or whoever controls it. Nothing in it can end the
        board."""
        reply = reply or self._write
        try:
            command = control.parse_command(line)
        except ControlError as error:
            reply(control.refusal(error))
            return
        try:
            answer = self._execute(command, reply)
        except ControlError as error:
            reply(control.refusal(error, command.id))
        except TinysplitError as error:
            if self._core is None:
                raise  # A reboot that found nothing to run.
            refused = ControlError("refused", describe(error))
            reply(control.refusal(refused, command.id))
        except Exception as error:  # A defect, but none that a line may end the board with.
            reply(control.refusal(ControlError("refused", describe(error)), command.id))
        else:
            if answer is not None:
                reply(control.reply(command.id, answer))

    def _execute(self, command: Command, reply: Answer | None = None) -> dict[str, Any] | None:
        assert self._core is not None
        reply = reply or self._write
        if command.name == "info":
            return self.info()
        if command.name == "stats":
            radio = self._radio.describe() if self._radio is not None else None
            return {**self._core.status(), "radio": radio}
        if command.name == "configure":
            return self._configure(command.fields["set"])
        if command.name == "run":
            self._run(command, reply)
            return None
        if command.name == "abort":
            return {"aborted": self._abort()}
        if command.name == "selftest":
            return asdict(self._held.selftest())
        if command.name.startswith("update_"):
            return self._holding.update(
                command.name, command.fields, self._active.get("mqtt_ca") or None
            )
        if command.name != "reboot":
            raise ControlError("unsupported", f"virtual boards have no {command.name}")
        self._abort()
        reply(control.reply(command.id, {}))
        self._last_words()
        self.boot()
        return None

    def _last_words(self) -> None:
        """Let answers over the link get out."""
        assert self._core is not None
        end = time.monotonic() + _LAST_WORDS_S
        while self._core.answers and time.monotonic() < end:
            self._core.step(_LAST_WORDS_STEP_US)

    def _configure(self, changes: dict[str, Any]) -> dict[str, Any]:
        wanted = {**self._flash.read(), **control.check_settings(changes)}
        try:
            self._check({**self._defaults, **wanted})
        except TinysplitError as error:
            raise ControlError("bad_setting", str(error)) from error
        try:
            self._flash.write(wanted)
        except FlashError as error:
            raise ControlError("bad_setting", str(error)) from error
        return self.settings()

    def _run(self, command: Command, reply: Answer) -> None:
        assert self._core is not None
        if self._stage.number != 0:
            raise ControlError("refused", "only a head begins inferences; this is a later stage")
        if command.fields["input"] == "tensors":
            try:
                given = command.fields.get("tensors", [])
                tensors = [base64.b64decode(t, validate=True) for t in given]
            except ValueError as error:  # Not base64, or not even ASCII.
                raise ControlError("bad_command", f"a tensor is no base64: {error}") from error
        elif command.fields["input"] == "selftest":
            tensors = list(self._held.golden)
        else:
            tensors = [bytes(i % 256 for i in range(spec.bytes)) for spec in self._stage.received]
        wanted = [spec.bytes for spec in self._stage.received]
        if [len(t) for t in tensors] != wanted:
            raise ControlError(
                "bad_command",
                f"the head takes tensors of {wanted} bytes, not {[len(t) for t in tensors]}",
            )
        inference = self._next_inference
        self._next_inference = inference % 0x7FFFFFFF + 1
        timeout_ms = command.fields.get("timeout_ms", self._timeout_ms)
        code = self._core.infer(inference, tensors, timeout_ms)
        if code != "ok":
            raise ControlError(code, f"the inference was not begun: {code}")
        self._pending[inference] = command.id, reply

    def _abort(self) -> int:
        assert self._core is not None
        count = self._core.abort()
        self._report_results()
        return count


def _announced(info: dict[str, Any]) -> AbstractContextManager[object]:
    """Be found by mDNS."""
    try:
        import zeroconf  # noqa: F401
    except ModuleNotFoundError as error:
        raise StageError(
            f"--announce needs {error.name}: pip install 'tinysplit[boards]'"
        ) from error
    from host.boards.discovery.network import announced

    return announced(address.parse(info["listen"]), info)


def serve(
    holding: Holding,
    flash: Flash,
    defaults: dict[str, Any],
    read_fd: int,
    write_fd: int,
    *,
    announce: bool = False,
) -> None:
    """Run a board whose control line is a pair of file descriptors, until it ends.

    With `announce` it can be found by mDNS meanwhile.

    Raises:
        TinysplitError: it cannot boot, or a descriptor is closed.
    """
    with closing(ControlLine(read_fd, write_fd)) as controller:
        announcer = _announced if announce else None
        board = Board(holding, flash, defaults, controller.send, announcer)
        with closing(board):
            _serve(board, controller)


def _serve(board: Board, controller: ControlLine) -> None:
    """One command at a time, so that many of them do not keep the link waiting."""
    lines = Lines()
    commands: deque[bytes] = deque()
    while not controller.ended:
        busy = bool(commands) and not controller.full
        if board.step(controller.fileno(), 0 if busy else _STEP_US) or busy:
            try:
                commands.extend(lines.feed(controller.exchange(take=not commands)))
            except ControlError as error:
                controller.send(control.refusal(error))
        if commands and not controller.full:
            board.handle(commands.popleft())
