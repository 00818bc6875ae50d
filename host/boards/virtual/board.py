"""The program a virtual board runs: control lines in, inferences and answers out.

`tinysplit board` starts it. It serves its sockets and its control line in one thread, and
ends when the control line does.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host.boards import address, control
from host.boards.address import RADIOS
from host.boards.control import Command, ControlError, Lines
from host.boards.selftest import SelfTest
from host.boards.virtual.control_line import ControlLine
from host.boards.virtual.core import Core, Settings, role_of
from host.boards.virtual.holding import Holding, NoStageError
from host.boards.virtual.radio import Radio, RadioSetup
from host.boards.virtual.radios import create_radio
from host.boards.virtual.settings import Flash, FlashError
from host.link import messages
from host.link.errors import LinkError
from host.link.frames import MIN_MTU
from host.link.messages import MessageKind
from host.link.session import Node, Role
from host.mqtt import access
from host.mqtt.once import Verdict
from models.errors import TinysplitError
from partitioner import kernels
from partitioner.chain import StageError
from partitioner.command import describe

if TYPE_CHECKING:
    from host.mqtt.node import Node as MqttNode

Answer = Callable[[bytes], object]
Announce = Callable[[dict[str, Any]], AbstractContextManager[object]]
VERSION = 1  # Of what `info` answers.
# What `info` answers and status says, too.
STATUS_MEMBERS = (
    *("version", "kind", "name", "boot", "role", "stage", "stages", "bundle", "transport"),
    *("listen", "firmware", "kernels"),
)
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
        log: takes a line for people, from any thread.
    """

    def __init__(
        self,
        holding: Holding,
        flash: Flash,
        defaults: dict[str, Any],
        write: Callable[[bytes], None],
        announce: Announce | None = None,
        log: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._announce = announce
        self._log = log
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
        self._mqtt: MqttNode | None = None
        self.wakeup, self._wake = os.pipe()  # A byte for each command that came by MQTT.
        for descriptor in (self.wakeup, self._wake):
            os.set_blocking(descriptor, False)
        self._kernels = kernels.exact()
        self.boot()

    def settings(self) -> dict[str, Any]:
        """The defaults, and what the flash has instead; secrets are not shown."""
        return control.masked({**self._defaults, **self._flash.read()})

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
        self._boot = secrets.token_hex(8)
        self._inferences, self._errors = 0, 0
        self._last_round_trip_us: int | None = None
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
        self._join_broker()

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
        broker(chosen)
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

    def _join_broker(self) -> None:
        found = broker(self._active)
        if found is not None:
            from host.mqtt.node import Node as MqttNode  # paho: not for boards that need none.

            status = self._status()
            self._mqtt = MqttNode(
                found, self._active["name"], lambda: status, self._wake, self._log_mqtt
            )
            self._mqtt.start()

    def _log_mqtt(self, line: str) -> None:
        self._log(f"{self._active['name']}: mqtt: {line}")

    def close(self) -> None:
        """Let go of the broker, the core and the radio. Safe to call twice."""
        if self._mqtt is not None:
            self._mqtt.close()
            self._mqtt = None
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
            "boot": self._boot,
            "firmware": metadata.version("tinysplit"),
            "role": role_of(chosen["stage"], held.stages),
            "stage": chosen["stage"],
            "stages": held.stages,
            "bundle": held.bundle,
            "model": held.model,
            **held.image,
            "transport": self._core.address.transport,
            "listen": str(self._core.address),
            "radio": self._radio.describe() if self._radio is not None else None,
            "next": chosen.get("next"),
            "kernels": self._kernels.name,
            "selftest": asdict(self._selftest),
            "pid": os.getpid(),
            "problem": self._problem,
            "uptime_ms": round((time.monotonic() - self._booted) * 1000),
        }

    def _status(self) -> dict[str, Any]:
        """Who it is, as its status says."""
        said = self.info()
        return {name: said[name] for name in STATUS_MEMBERS}

    def telemetry(self) -> dict[str, Any]:
        """How it is now: telemetry_values in control.schema.json."""
        assert self._core is not None
        core, link = self._core, self._core.status()
        values: dict[str, Any] = {
            "uptime_ms": round((time.monotonic() - self._booted) * 1000),
            "kernels": self._kernels.name,
            "runs": core.runs,
            "last_invoke_us": core.last_invoke_us,
            "inferences": self._inferences,
            "errors": self._errors,
            "frames_in": link["frames_in"],
            "frames_out": link["frames_out"],
            "data_resent": link["data_resent"],
            "dropped": link["dropped"],
        }
        if self._last_round_trip_us is not None:
            values["last_round_trip_us"] = self._last_round_trip_us
        resident = _resident_bytes()
        if resident is not None:
            values["memory"] = {"rss": resident}
        if self._mqtt is not None:
            values["commands"] = {"taken": self._mqtt.once.count, **asdict(self._mqtt.counts)}
        return values

    def step(self, control_fd: int, timeout_us: int) -> bool:
        """Serve the link until `control_fd` can be read; returns whether it can."""
        assert self._core is not None
        self._holding.step()
        if self._holding.fetching:
            timeout_us = min(timeout_us, _FETCHING_STEP_US)
        readable, _ = self._core.step(timeout_us, control_fd)
        self._report_results()
        self._take_messages()
        self._serve_broker()
        return readable

    def _serve_broker(self) -> None:
        """One command that came by MQTT, and telemetry when it is time."""
        node = self._mqtt
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakeup, 1)
        if node is None:
            return
        if (line := node.take()) is not None:
            self.handle(line, node.reply, node)
        if node is self._mqtt and node.telemetry_due():
            node.telemetry(control.event("telemetry", values=self.telemetry()))

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
            self._inferences += 1
            if result.code == "ok":
                self._last_round_trip_us = result.total_us
            else:
                self._errors += 1
                text = f": {result.text}" if result.text else ""
                why = f"the inference failed at stage {result.stage} ({result.code}{text})"
                if result.code == "cancelled" and result.stage == self._stage.number:
                    why = "given up on command"
                reply(control.refusal(ControlError(result.code, why), command_id))
                continue
            answer = asdict(result)
            answer["tensors"] = [base64.b64encode(t).decode() for t in result.tensors]
            reply(control.reply(command_id, answer))

    def handle(
        self, line: bytes, reply: Answer | None = None, node: MqttNode | None = None
    ) -> None:
        """Answer one control line, to `reply` or whoever controls it. Nothing in it can end the
        board. One that came to a `node`, by MQTT, may have come before."""
        reply = reply or self._write
        try:
            command = control.parse_command(line)
            if not self._is_new(command, line, node):
                return
        except ControlError as error:
            if node is None:
                reply(control.refusal(error))
                return
            node.counts.stale += error.code in ("stale", "forgotten")
            node.counts.reused += error.code == "id_reused"
            node.counts.malformed += error.code == "malformed"
            node.turn_away(control.refusal(error))
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

    def _is_new(self, command: Command, line: bytes, node: MqttNode | None) -> bool:
        """Whether it is to be carried out; what was before is answered as it was then.

        Raises:
            ControlError: `stale`, `forgotten`, `id_reused`.
        """
        if command.boot not in (None, self._boot):
            raise ControlError("stale", "it was meant for an earlier boot", command.id)
        if node is None:
            return True
        verdict = node.once.admit(command.id, line, command.after)
        if verdict is Verdict.NEW:
            return True
        if verdict is Verdict.FORGOTTEN:
            raise ControlError(
                "forgotten",
                "so much has come since it was made that it may have been done",
                command.id,
            )
        if verdict is Verdict.REUSED:
            raise ControlError(
                "id_reused",
                "another command had this id; send it again with an id of its own",
                command.id,
            )
        node.counts.duplicates += 1
        if verdict is Verdict.DONE:
            kept = node.once.answer(command.id)
            done = ControlError("done_already", "it was carried out; the answer is not kept")
            node.say(kept or control.refusal(done, command.id))
        return False

    def _execute(self, command: Command, reply: Answer | None = None) -> dict[str, Any] | None:
        assert self._core is not None
        reply = reply or self._write
        if command.name == "info":
            return self.info()
        if command.name == "stats":
            radio = self._radio.describe() if self._radio is not None else None
            return {**self._core.status(), "radio": radio}
        if command.name == "telemetry":
            return self.telemetry()
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
            code = "stage_mismatch" if isinstance(error, NoStageError) else "bad_setting"
            raise ControlError(code, str(error)) from error
        try:
            self._flash.write(wanted)
        except FlashError as error:
            raise ControlError("bad_setting", str(error)) from error
        return self.settings()

    def _run(self, command: Command, reply: Answer) -> None:
        assert self._core is not None
        if self._stage.number != 0:
            raise ControlError(
                "stage_mismatch",
                f"only a head begins inferences; this is stage {self._stage.number}",
            )
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

    def abandon(self) -> None:
        """Nobody can say more: what is under way is answered `cancelled`, not dropped unsaid."""
        self._abort()

    def _abort(self) -> int:
        assert self._core is not None
        count = self._core.abort()
        self._report_results()
        return count


def broker(settings: dict[str, Any]) -> access.Access | None:
    """The broker that the settings name; None: none.

    Raises:
        AccessError: they do not make sense.
    """
    if not settings.get("mqtt_url"):
        return None
    return access.parse(
        settings["mqtt_url"],
        user=settings.get("mqtt_user") or None,
        password=settings.get("mqtt_password") or None,
        ca=settings.get("mqtt_ca") or None,
    )


def _resident_bytes() -> int | None:
    """What this process has in memory; None where the system does not say (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


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
    log: Callable[[str], None] = lambda _line: None,
) -> None:
    """Run a board whose control line is a pair of file descriptors, until it ends.

    With `announce` it can be found by mDNS meanwhile. `log` takes lines for people.

    Raises:
        TinysplitError: it cannot boot, or a descriptor is closed.
    """
    with closing(ControlLine(read_fd, write_fd)) as controller:
        announcer = _announced if announce else None
        board = Board(holding, flash, defaults, controller.send, announcer, log)
        controller.watch(board.wakeup)
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
    board.abandon()
