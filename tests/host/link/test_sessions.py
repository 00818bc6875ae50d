"""Opening, keeping and ending sessions."""

import random

import pytest
from simulation import BUNDLE, MS, S, Simulation, network

from host.link import frames
from host.link.errors import ErrorCode
from host.link.events import (
    FailureReceived,
    MessageFailed,
    MessageSent,
    ResultReceived,
    SessionEnded,
    SessionOpened,
    TensorReceived,
)
from host.link.session import Node, Profile, Role

TENSOR = bytes(range(256)) * 21 + bytes(112)  # 5,488 bytes.


def opened(**kwargs: object) -> Simulation:
    sim = Simulation(**kwargs)
    head = sim.head()
    sim.tail()
    sim.serve()
    sim.give_back("head")
    head.connect(sim.now)
    assert sim.run(S, lambda: bool(sim.of("head", SessionOpened) and sim.of("tail", SessionOpened)))
    sim.run(100 * MS)
    return sim


def test_a_tensor_goes_out_and_its_result_comes_back() -> None:
    sim = opened()
    sim.ends["head"].send_tensor(7, [TENSOR, b"skip"], sim.now)
    assert sim.run(S, lambda: bool(sim.of("head", ResultReceived)))
    result = sim.of("head", ResultReceived)[0]
    assert result.inference_id == 7
    assert [bytes(t) for t in result.tensors] == [TENSOR[::-1], b"piks"]
    sent = sim.of("head", MessageSent)[0]
    assert sent.frames == sent.fragments == 4
    assert sim.ends["head"].sending.retransmitted == 0


def test_overhead_without_loss() -> None:
    for mtu, most in ((1452, 1.015), (250, 1.04)):
        sim = Simulation()
        head = sim.head(profile=Profile(mtu=mtu))
        sim.tail()
        sim.serve()
        head.connect(sim.now)
        head.send_tensor(1, [TENSOR], sim.now)
        assert sim.run(S, lambda sim=sim: bool(sim.of("head", MessageSent)))
        assert sim.of("head", MessageSent)[0].frame_bytes <= most * len(TENSOR)


def test_nobody_answers() -> None:
    sim = Simulation()
    head = sim.head()
    head.connect(sim.now)
    assert sim.run(6 * S, lambda: bool(sim.of("head", SessionEnded)))
    assert sim.of("head", SessionEnded)[0].error.code == ErrorCode.NO_PEER


def test_message_without_a_peer_ends_with_no_peer() -> None:
    sim = Simulation()
    head = sim.head()
    head.connect(sim.now)
    head.send_tensor(1, [b"x"], sim.now, deadline_us=sim.now + 2 * S)
    assert sim.run(3 * S, lambda: bool(sim.of("head", MessageFailed)))
    assert sim.of("head", MessageFailed)[0].error.code == ErrorCode.NO_PEER


REFUSALS = {
    "bundle": ({"node": Node.head(bytes(31) + b"x")}, {}, ErrorCode.BUNDLE_MISMATCH),
    "older": (
        {"node": Node(Role.HEAD, 0, 2, BUNDLE, version_min=0, version_max=0)},
        {},
        ErrorCode.VERSION_OLDER,
    ),
    "newer": (
        {"node": Node(Role.HEAD, 0, 2, BUNDLE, version_min=2, version_max=3)},
        {},
        ErrorCode.VERSION_NEWER,
    ),
    "stage": ({"node": Node.head(BUNDLE, 3)}, {}, ErrorCode.STAGE_MISMATCH),
    "not serving": (
        {},
        {"node": Node(Role.TAIL, 1, 2, BUNDLE, serving=False)},
        ErrorCode.REFUSED,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case: str) -> None:
    head_args, tail_args, code = REFUSALS[case]
    sim = Simulation()
    head = sim.head(**head_args)
    sim.tail(**tail_args)
    head.send_tensor(1, [b"x"], sim.now, deadline_us=sim.now + 2 * S)
    head.connect(sim.now)
    sim.run(3 * S)
    assert sim.of("head", SessionEnded)[0].error.code == code
    assert [event.error.code for event in sim.of("head", MessageFailed)] == [code]
    assert not sim.of("tail", SessionOpened)


def test_busy_until_a_session_is_free() -> None:
    sim = Simulation()
    sim.tail(profile=Profile(max_sessions=1))
    first, second = sim.head("first"), sim.head("second")
    first.connect(sim.now)
    sim.run(100 * MS)
    second.connect(sim.now)
    sim.run(500 * MS)
    assert sim.of("second", SessionEnded)[0].error.code == ErrorCode.BUSY
    first.close(sim.now)
    assert sim.run(2 * S, lambda: bool(sim.of("second", SessionOpened)))


def test_hellos_from_nowhere_keep_nobody_out() -> None:
    sim = Simulation()
    tail = sim.tail(profile=Profile(max_sessions=4))
    kept = sim.head("kept")
    kept.connect(sim.now)
    sim.run(100 * MS)
    hello = Profile().hello(Node.head(BUNDLE), 77).encode(frames.Kind.HELLO)
    for port in range(500):
        sim.inject("tail", hello, f"nowhere {port}", port * MS)
    fresh = sim.head("fresh")
    fresh.connect(sim.now)
    assert sim.run(400 * MS, lambda: bool(sim.of("fresh", SessionOpened)))
    sim.run(S)
    assert sorted(tail.peers) == ["fresh", "kept"]
    assert not sim.of("kept", SessionEnded)


def test_as_many_heads_at_once_as_there_are_sessions() -> None:
    sim = Simulation()
    tail = sim.tail(profile=Profile(max_sessions=100))
    for number in range(100):
        sim.head(f"{number}").connect(sim.now)
    sim.run(50 * MS)
    assert len(tail.peers) == 100
    assert not any(sim.of(f"{number}", SessionEnded) for number in range(100))


def test_a_tail_that_restarts_is_found_again_by_all_heads_at_once() -> None:
    sim = Simulation()
    profile = Profile(max_sessions=100)
    sim.tail(profile=profile)
    heads = [sim.head(f"{number}") for number in range(100)]
    for head in heads:
        head.connect(sim.now)
    sim.run(S)
    tail = sim.tail(profile=profile)
    assert sim.run(6 * S, lambda: len(tail.peers) == 100)  # After a third of the idle timeout.


def test_two_heads_at_one_tail() -> None:
    sim = Simulation(3, network(loss=0.1, jitter_us=2 * MS))
    sim.tail()
    sim.serve()
    for name in ("a", "b"):
        sim.give_back(name)
        head = sim.head(name)
        head.connect(sim.now)
        for inference in range(20):
            head.send_tensor(inference, [name.encode() * 3000 + bytes([inference])], sim.now)
    assert sim.run(
        9 * S, lambda: all(len(sim.of(name, ResultReceived)) == 20 for name in ("a", "b"))
    )
    for name in ("a", "b"):
        for event in sim.of(name, ResultReceived):
            expected = bytes([event.inference_id]) + name.encode() * 3000
            assert bytes(event.tensors[0]) == expected


def test_clock_offset_within_its_uncertainty() -> None:
    sim = Simulation(1, network(delay_us=3 * MS, jitter_us=2 * MS))
    head = sim.head()
    sim.tail(skew_us=123_456_789)
    head.connect(sim.now)
    sim.run(S)
    estimate = head.clock("tail", sim.now)
    assert estimate is not None
    assert abs(estimate.offset_us - 123_456_789) <= estimate.uncertainty_us <= 5 * MS


def test_tail_restarts_and_the_inference_goes_on() -> None:
    sim = opened()
    head = sim.ends["head"]
    sim.tail()  # A new one under the same address.
    head.send_tensor(9, [TENSOR], sim.now)
    assert sim.run(3 * S, lambda: bool(sim.of("head", ResultReceived)))
    assert sim.of("head", SessionEnded)[0].error.code == ErrorCode.RESET
    assert bytes(sim.of("head", ResultReceived)[0].tensors[0]) == TENSOR[::-1]


def test_head_restarts_and_the_old_session_is_replaced() -> None:
    sim = opened()
    head = sim.head()
    head.connect(sim.now)
    head.send_tensor(1, [b"again"], sim.now)
    assert sim.run(3 * S, lambda: bool(sim.of("head", ResultReceived)))
    assert sim.of("tail", SessionEnded)[0].error.code == ErrorCode.REPLACED


def test_silence_ends_a_session() -> None:
    sim = opened()
    del sim.ends["tail"], sim._due["tail"]
    assert sim.run(17 * S, lambda: bool(sim.of("head", SessionEnded)))
    assert sim.of("head", SessionEnded)[0].error.code == ErrorCode.PEER_LOST


def test_an_idle_session_stays_up() -> None:
    sim = opened()
    sim.run(120 * S)
    assert not sim.of("head", SessionEnded)
    assert not sim.of("tail", SessionEnded)
    assert sim.steps < 2000


def test_bye() -> None:
    sim = opened()
    sim.ends["head"].close(sim.now)
    sim.run(S)
    assert sim.of("tail", SessionEnded)[0].error.code == ErrorCode.CLOSED
    assert sim.ends["tail"]._peers == {}


def test_a_replayed_session_changes_nothing() -> None:
    sim = opened()
    head = sim.ends["head"]
    head.send_tensor(1, [TENSOR], sim.now)
    sim.run(S)
    recording = [frame for source, _, frame in sim.sent if source == "head"]
    head.close(sim.now)
    sim.run(S)
    head.connect(sim.now)
    assert sim.run(S, lambda: len(sim.of("tail", SessionOpened)) == 2)
    before = len(sim.of("tail", TensorReceived))
    for frame in recording * 2:
        sim.inject("tail", frame, "head")
    head.send_tensor(2, [TENSOR], sim.now)
    assert sim.run(S, lambda: len(sim.of("head", ResultReceived)) == 2)
    assert len(sim.of("tail", TensorReceived)) == before + 1
    assert len(sim.of("head", SessionEnded)) == 1


def test_garbage_flood_leaves_the_session_alone() -> None:
    sim = opened()
    rng = random.Random(7)
    good = [frame for _, _, frame in sim.sent]
    for index in range(5000):
        junk = bytearray(rng.choice(good)) if index % 2 else bytearray(rng.randbytes(60))
        junk[rng.randrange(len(junk))] ^= 1 << rng.randrange(8)
        source = "head" if index % 3 else f"stranger{index}"
        sim.inject("tail", bytes(junk), source, rng.randrange(S))
    sim.ends["head"].send_tensor(1, [TENSOR], sim.now)
    assert sim.run(2 * S, lambda: bool(sim.of("head", ResultReceived)))
    assert len(sim.ends["tail"]._peers) == 1
    assert not sim.of("tail", SessionEnded)


def test_clock_of_one_end_jumps() -> None:
    for jump in (-3600 * S, 3600 * S):
        sim = opened()
        sim.skew["head"] += jump
        sim.ends["head"].send_tensor(1, [TENSOR], sim.clock("head"))
        assert sim.run(5 * S, lambda sim=sim: bool(sim.of("head", ResultReceived)))


def test_too_large_is_said_before_sending() -> None:
    sim = Simulation()
    head = sim.head()
    sim.tail(profile=Profile(max_message=1000))
    head.connect(sim.now)
    head.send_tensor(1, [bytes(2000)], sim.now)
    assert sim.run(S, lambda: bool(sim.of("head", MessageFailed)))
    error = sim.of("head", MessageFailed)[0].error
    assert (error.code, error.detail) == (ErrorCode.TOO_LARGE, 1000)


def test_duplicate_inference_id() -> None:
    sim = Simulation()
    head = sim.head()
    sim.tail()
    head.connect(sim.now)
    head.send_tensor(5, [b"one"], sim.now)
    head.send_tensor(5, [b"two"], sim.now)
    assert sim.run(S, lambda: bool(sim.of("head", FailureReceived)))
    assert sim.of("head", FailureReceived)[0].error.code == ErrorCode.DUPLICATE


def test_a_host_with_another_bundle_may_command_but_not_infer() -> None:
    sim = Simulation()
    host = sim.head(node=Node.host(), accept={3})
    sim.tail(accept={3})
    host.connect(sim.now)
    host.send_control({"cmd": "info"}, sim.now)
    host.send_tensor(1, [b"x"], sim.now)
    host.send_blob(1, 0, 10, b"0123456789", sim.now)
    sim.run(S)
    assert len(sim.of("head", MessageSent)) == 1
    codes = {event.error.code for event in sim.of("head", MessageFailed)}
    assert codes == {ErrorCode.BUNDLE_MISMATCH, ErrorCode.UNSUPPORTED}


def test_slots_hold_a_fast_sender_back() -> None:
    sim = Simulation()
    head = sim.head()
    tail = sim.tail(profile=Profile(slots=2))
    head.connect(sim.now)
    for inference in range(10):
        head.send_tensor(inference, [TENSOR], sim.now)
    sim.run(3 * S)
    assert len(sim.of("tail", TensorReceived)) == 2
    quiet = len(sim.sent)
    sim.run(2 * S)
    assert len(sim.sent) - quiet < 20
    for done in range(10):
        tail.release(sim.of("tail", TensorReceived)[done], sim.now)
        sim.run(S, lambda done=done: len(sim.of("tail", TensorReceived)) >= min(done + 3, 10))
    assert [event.inference_id for event in sim.of("tail", TensorReceived)] == list(range(10))


def test_giving_up_frees_the_receiver() -> None:
    lossy = [True]

    def fate(rng: random.Random, frame: bytes) -> list[tuple[int, bytes]]:
        return [] if lossy[0] and frame[0] >> 4 == frames.Kind.DATA else [(MS, frame)]

    sim = Simulation(fate=fate)
    head = sim.head(profile=Profile(slots=8))
    sim.tail(profile=Profile(slots=8))
    sim.serve()
    head.connect(sim.now)
    for inference in range(8):
        head.send_tensor(inference, [TENSOR], sim.now, deadline_us=sim.now + 500 * MS)
    sim.run(S)
    assert len(sim.of("head", MessageFailed)) == 8
    lossy[0] = False
    head.send_tensor(100, [TENSOR], sim.now)
    assert sim.run(2 * S, lambda: bool(sim.of("head", ResultReceived)))
