"""An update of many boards in two phases: all of them have the image, or none starts it.

Theory of operation. Every chain of boards runs one bundle; a head that meets the tail of another
refuses it (SPEC.md section 2.2), so no result is ever mixed, but while half a chain runs the new
bundle there are no results. Hence the order:

1. ask every board what it runs; those that run the image are left alone;
2. begin on one of the others, the first by address, so that of two commands for the same boards one
   finds it busy and comes no further; then bring the image to all at once; each verifies it;
3. have each say once more that it is there;
4. arm them: the next restart runs the new image. Until here everything can be taken back;
5. restart all of them at once, and wait until each runs and has found its next stage.

What fails before step 5 ends the update with every board on its old image. What fails in step 5
leaves boards on either side; the same update again goes on where each of them stands.

Boards that are done with a step are told every few seconds that the update is still under way, or
they would let another one in (courier.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from host.ota.courier import HOLD_S, PASSING, Courier, DeliveryError, StoppedError
from host.ota.shipment import Shipment

LEAVING_TIMEOUT_S = 5.0  # After Ctrl-C; what waits for a board looks up ten times a second.
_LOOK_S = 0.1

Choose = Callable[[Sequence[Courier]], Callable[[Courier], Shipment]]


@dataclass
class Outcome:
    """What became of an update.

    `gaps_ms`: by chain, from the first restart until all its boards serve, by this machine's
    clock; only of chains that all of it restarted and serve.
    """

    done: bool = False
    problem: str | None = None
    advice: str | None = None
    gaps_ms: dict[int, float] = field(default_factory=dict)


def _all(couriers: Sequence[Courier], work: Callable[[Courier], Any]) -> list[Courier]:
    """Do `work` for all at once; returns those that failed, which say why.

    Those that are done hold their boards until all are.
    """
    failed: list[Courier] = []
    done: list[Courier] = []
    over = threading.Event()

    def one(courier: Courier) -> None:
        try:
            work(courier)
        except DeliveryError as error:
            courier.report.code, courier.report.error = error.code, str(error)
            failed.append(courier)
        except StoppedError:
            pass
        finally:
            done.append(courier)
            if len(done) == len(couriers):
                over.set()
        while not over.wait(HOLD_S):
            courier.hold()

    if couriers:
        _run_out_of_the_way(lambda: _each(couriers, one), lambda: _leave(couriers, over))
    return sorted(failed, key=couriers.index)


def _each(couriers: Sequence[Courier], work: Callable[[Courier], None]) -> None:
    with ThreadPoolExecutor(len(couriers)) as pool:  # All at once, or those that hold wait forever.
        list(pool.map(work, couriers))


def _leave(couriers: Sequence[Courier], over: threading.Event) -> None:
    for courier in couriers:
        courier.leave()
    over.set()


def _run_out_of_the_way(work: Callable[[], None], leave: Callable[[], None]) -> None:
    """Do `work` in a thread: Ctrl-C, which comes to this one, cannot break it off half-way.

    Raises:
        KeyboardInterrupt: after `leave`, and the end of `work`.
    """
    over = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
        finally:
            over.set()

    try:
        threading.Thread(target=run, daemon=True).start()
        while not over.wait(_LOOK_S):  # A signal just before one wait shows after it.
            pass
    except KeyboardInterrupt:
        leave()
        over.wait(LEAVING_TIMEOUT_S)
        raise
    if raised:
        raise raised[0]


def _named(failed: Sequence[Courier]) -> str:
    return "; ".join(f"{c.report.error} [{c.report.code}]" for c in failed)


def update(
    couriers: Sequence[Courier],
    choose: Choose,
    stop: threading.Event,
    phase: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Bring all boards to the image that `choose` has for each, once all are known.

    Args:
        stop: set here when a board fails, so that the others do not go on; the couriers have it.
        phase: told what begins.

    Raises:
        TinysplitError: what `choose` raises; nothing has changed then.
    """
    try:
        return _update(couriers, choose, stop, phase)
    finally:
        _each(couriers, lambda courier: courier.release())


def _update(
    couriers: Sequence[Courier],
    choose: Choose,
    stop: threading.Event,
    phase: Callable[[str], None],
) -> Outcome:
    phase("asking")
    failed = _all(couriers, lambda courier: courier.survey())
    if failed:
        return Outcome(problem=f"nothing was sent: {_named(failed)}")
    image_of = choose(couriers)
    todo = []
    for courier in couriers:
        if courier.runs(image_of(courier)):
            courier.mark_current()
        else:
            todo.append(courier)
    if not todo:
        return Outcome(done=True)
    phase("sending")

    def claim(courier: Courier) -> None:
        courier.claim(image_of(courier))

    def bring(courier: Courier) -> None:
        try:
            courier.bring(image_of(courier))
        except DeliveryError:
            stop.set()
            raise

    failed = _all([min(todo, key=lambda courier: str(courier.node.place))], claim)
    failed = failed or _all(todo, bring)
    stop.clear()
    todo = [courier for courier in todo if courier.report.state != "current"]
    if not failed:
        phase("verifying")
        failed = _all(todo, lambda courier: courier.verify())
    if failed:
        return _given_up(todo, failed)
    phase("arming")
    failed = _all(todo, lambda courier: courier.arm())
    if failed:
        return _given_up(todo, failed)
    phase("restarting")
    failed = _all(todo, lambda courier: courier.restart())
    if failed:
        return _halfway(couriers, failed)
    phase("waiting")
    return _serving(couriers, todo)


def _given_up(todo: Sequence[Courier], failed: Sequence[Courier]) -> Outcome:
    """Nothing is activated. A refused image is dropped everywhere; after a board that vanished,
    what was staged stays, for the next try."""
    outcome = Outcome(problem=f"no board was switched: {_named(failed)}")
    vanished = [c for c in failed if c.report.code == "gone" or c.report.code in PASSING]
    armed = [c for c in todo if c.report.state == "armed"]
    refused = len(vanished) < len(failed)
    back = [c for c in todo if c not in vanished and (refused or c in armed)]
    problems = {c: (c.report.code, c.report.error) for c in failed}
    kept = _all(back, lambda courier: courier.drop())
    # A board without slots has nothing to forget.
    stuck = [c for c in kept if c not in failed and c.report.code != "unsupported"]
    for courier, (code, error) in problems.items():
        courier.report.code, courier.report.error = code, error
    if stuck:
        outcome.advice = (
            "could not be told to forget the new image, and may start it: "
            + ", ".join(c.label for c in stuck)
        )
    elif refused:
        outcome.advice = "what had been sent was dropped; all boards run what they ran"
    elif any(c.report.code == "busy" for c in failed):
        outcome.advice = (
            "all boards run what they ran; when the other one is over, give the same command "
            "again; with --take-over if nobody is at it any more"
        )
    elif armed:
        outcome.advice = (
            "the others forgot the new image; "
            + ", ".join(c.label for c in vanished)
            + " may start it when it is back: give the same command again then"
        )
    else:
        outcome.advice = (
            "all boards run what they ran; what was sent stays there, and the same command again "
            "goes on from it"
        )
    return outcome


def _halfway(couriers: Sequence[Courier], failed: Sequence[Courier]) -> Outcome:
    back = [c for c in failed if c.report.state == "rolled_back"]
    where = "; ".join(f"{c.label}: {_where(c)}" for c in couriers)
    advice = "such a chain gives no results until all its boards run one bundle: " + (
        "send one that runs on all of them"
        if back
        else "give the same command again when the board is back"
    )
    return Outcome(problem=f"{_named(failed)}. Now {where}", advice=advice)


def _where(courier: Courier) -> str:
    return {
        "running": "runs the new image",
        "current": "runs the new image",
        "rolled_back": "runs the old image, after the new one failed",
        "armed": "was told to restart with the new image, and has not been heard since",
    }.get(courier.report.state, "runs the old image")


def _serving(couriers: Sequence[Courier], todo: Sequence[Courier]) -> Outcome:
    outcome = Outcome(done=True)
    chains = {courier.node.chain for courier in todo}
    all_of_them = [c for c in couriers if c.node.chain in chains]
    mine = [c for c in all_of_them if _can_meet(c, couriers)]
    failed = _all(mine, lambda courier: courier.serve())
    for chain in sorted({courier.node.chain for courier in mine}):
        own = [courier for courier in mine if courier.node.chain == chain]
        if any(courier in failed for courier in own):
            continue
        starts = [c.restarted_at for c in own if c.restarted_at is not None]
        ends = [c.served_at for c in own if c.served_at is not None]
        outcome.gaps_ms[chain] = (max(ends) - min(starts)) * 1000
    if failed:
        outcome.done = False
        outcome.problem = _named(failed)
        outcome.advice = (
            "all boards run the new image, and a chain gives no results until its boards have "
            "met: see that all are on and in reach"
        )
    elif len(mine) < len(all_of_them):
        outcome.advice = "a chain gives no results until the boards not named here run it, too"
    return outcome


def _can_meet(courier: Courier, couriers: Sequence[Courier]) -> bool:
    """Whether the board's chain runs one bundle now: all of it was named, or bundles stayed."""
    own = [c for c in couriers if c.node.chain == courier.node.chain]
    firmware = any(c.image is not None and c.image.firmware for c in own)
    return firmware or courier.info.get("stages") in (None, len(own))
