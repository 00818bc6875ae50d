"""Sessions under any mixture of faults: a message arrives exact and once, or ends by name.

Nothing may hang: every run ends in simulated time with every message accounted for.
"""

import random
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulation import BUNDLE, MS, S, Simulation, network

from host.link.endpoint import Initiator
from host.link.errors import ErrorCode
from host.link.events import (
    FailureReceived,
    MessageFailed,
    MessageSent,
    ResultReceived,
    SessionOpened,
    TensorReceived,
)
from host.link.session import Node, Profile

SEEDS = st.integers(0, 2**32)
SHARE = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.5])


def content(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


NETWORKS = st.builds(
    network,
    loss=SHARE,
    delay_us=st.sampled_from([0, 500, 20 * MS]),
    jitter_us=st.sampled_from([0, 1 * MS, 30 * MS]),
    duplicate=SHARE,
    corrupt=SHARE,
)
PROFILES = st.builds(
    Profile,
    mtu=st.sampled_from([128, 250, 1452, 16384]),
    window=st.sampled_from([1, 4, 64, 256]),
    slots=st.integers(1, 8),
    reorder=st.sampled_from([1, 3]),
    pace_bps=st.sampled_from([0, 2_000_000]),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=SEEDS,
    fate=NETWORKS,
    head_profile=PROFILES,
    tail_profile=PROFILES,
    sizes=st.lists(st.sampled_from([0, 1, 100, 1000, 5488, 20_000]), min_size=1, max_size=12),
    restarts=st.lists(
        st.tuples(st.integers(0, 3 * S), st.sampled_from(["head", "tail"])), max_size=3
    ),
)
def test_exact_or_a_named_error(
    seed: int,
    fate: object,
    head_profile: Profile,
    tail_profile: Profile,
    sizes: list[int],
    restarts: list[tuple[int, str]],
) -> None:
    sim = Simulation(seed, fate)  # type: ignore[arg-type]
    sim.serve()
    sim.give_back("head")
    base, tokens, generation = 0, {}, 0

    def start_head() -> None:
        nonlocal base, generation
        head = sim.head(profile=head_profile)
        tokens.clear()
        sim.events["head"].clear()
        base = 1000 * generation
        generation += 1
        head.connect(sim.now)
        for index, size in enumerate(sizes):
            token = head.send_tensor(
                base + index,
                [content(base + index, size), b"second"],
                sim.now,
                deadline_us=sim.now + 8 * S,
            )
            tokens[token] = base + index

    sim.tail(profile=tail_profile)
    start_head()
    for after, who in sorted(restarts):
        sim.run(after)
        if who == "head":
            start_head()
        else:
            sim.tail(profile=tail_profile)
    sim.run(9 * S)

    for event in sim.of("tail", TensorReceived):
        number = event.inference_id
        assert bytes(event.tensors[0]) == content(number, sizes[number % 1000])
        assert bytes(event.tensors[1]) == b"second"
    for event in sim.of("head", ResultReceived):
        number = event.inference_id
        assert number >= base, "a result of the head's former life"
        assert bytes(event.tensors[0]) == content(number, sizes[number % 1000])[::-1]
    assert not sim.of("head", FailureReceived)

    settled = Counter(
        event.token
        for event in sim.events["head"]
        if isinstance(event, MessageSent | MessageFailed)
    )
    assert settled == dict.fromkeys(tokens, 1)
    assert all(event.error.code for event in sim.of("head", MessageFailed))
    per_session = Counter(
        (event.session, event.message_id) for event in sim.of("tail", TensorReceived)
    )
    assert all(count == 1 for count in per_session.values())
    head = sim.ends["head"]
    assert isinstance(head, Initiator)
    assert head.queued == 0
    if head._up is not None:
        assert head._up.sender._in_flight == 0
        assert not head._up.receiver._held


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=SEEDS, loss=st.sampled_from([0.0, 0.1, 0.3]), jitter=st.sampled_from([0, 20 * MS]))
def test_all_arrives_while_loss_is_bearable(seed: int, loss: float, jitter: int) -> None:
    sim = Simulation(seed, network(loss=loss, jitter_us=jitter, duplicate=0.1, corrupt=0.05))
    patient = Profile(message_deadline_us=60 * S)
    head = sim.head(profile=patient)
    sim.tail(profile=patient)
    sim.serve()
    sim.give_back("head")
    head.connect(sim.now)
    for number in range(20):
        head.send_tensor(number, [content(number, 5488)], sim.now)
    assert sim.run(60 * S, lambda: len(sim.of("head", ResultReceived)) == 20)
    for event in sim.of("head", ResultReceived):
        assert bytes(event.tensors[0]) == content(event.inference_id, 5488)[::-1]


def test_reorder_of_fifth_and_a_percent_corrupt() -> None:
    sim = Simulation(4, network(loss=0.2, jitter_us=8 * MS, corrupt=0.01))
    head = sim.head()
    sim.tail()
    sim.serve()
    sim.give_back("head")
    head.connect(sim.now)
    for number in range(60):
        head.send_tensor(number, [content(number, 5488)], sim.now)
    assert sim.run(10 * S, lambda: len(sim.of("head", ResultReceived)) == 60)


def test_tail_killed_in_mid_transfer() -> None:
    sim = Simulation(2, network(loss=0.1))
    head = sim.head(profile=Profile(mtu=128, window=4))
    sim.tail()
    sim.serve()
    sim.give_back("head")
    head.connect(sim.now)
    head.send_tensor(1, [content(1, 20_000)], sim.now)
    sim.run(30 * MS)
    assert sim.of("tail", SessionOpened)
    assert not sim.of("tail", TensorReceived)
    sim.tail()
    assert sim.run(5 * S, lambda: bool(sim.of("head", ResultReceived)))
    assert bytes(sim.of("head", ResultReceived)[0].tensors[0]) == content(1, 20_000)[::-1]


def test_tail_comes_back_with_another_bundle() -> None:
    sim = Simulation(2)
    head = sim.head()
    sim.tail()
    head.connect(sim.now)
    sim.run(S)
    sim.tail(node=Node.tail(bytes(32)[:31] + b"y"))
    head.send_tensor(1, [content(1, 100)], sim.now)
    assert sim.run(5 * S, lambda: bool(sim.of("head", MessageFailed)))
    assert sim.of("head", MessageFailed)[0].error.code == ErrorCode.BUNDLE_MISMATCH


def test_outage_longer_than_the_partial_timeout() -> None:
    down = [False]

    def fate(rng: random.Random, frame: bytes) -> list[tuple[int, bytes]]:
        return [] if down[0] and frame[0] >> 4 in (3, 4, 5) else [(MS, frame)]

    sim = Simulation(fate=fate)
    head = sim.head(profile=Profile(mtu=128, window=4))
    sim.tail()
    sim.serve()
    sim.give_back("head")
    head.connect(sim.now)
    head.send_tensor(1, [content(1, 20_000)], sim.now, deadline_us=sim.now + 60 * S)
    sim.run(12 * MS)
    down[0] = True
    sim.run(12 * S)
    down[0] = False
    assert sim.run(5 * S, lambda: bool(sim.of("head", ResultReceived)))


def test_interleaved_sessions_of_one_address() -> None:
    sim = Simulation(6)
    sim.tail()
    sim.serve()
    old = sim.head(profile=Profile(mtu=128, window=4))
    old.connect(sim.now)
    old.send_tensor(1, [content(1, 5000)], sim.now)
    sim.run(8 * MS)
    former = [frame for source, _, frame in sim.sent if source == "head"]
    head = sim.head(profile=Profile(mtu=128, window=4))
    sim.give_back("head")
    head.connect(sim.now)
    head.send_tensor(2, [content(2, 5000)], sim.now)
    for index, frame in enumerate(former * 3):
        sim.inject("tail", frame, "head", index * 100)
    assert sim.run(5 * S, lambda: bool(sim.of("head", ResultReceived)))
    assert [event.inference_id for event in sim.of("head", ResultReceived)] == [2]
    for event in sim.of("tail", TensorReceived):
        assert bytes(event.tensors[0]) == content(event.inference_id, 5000)


def test_a_hello_flood_costs_a_bounded_number_of_sessions() -> None:
    sim = Simulation()
    tail = sim.tail(profile=Profile(max_sessions=8))
    for index in range(500):
        node = Node.head(BUNDLE)
        stranger = Initiator(node, peer="tail", nonce=sim.nonce)
        stranger.connect(sim.now)
        sim.inject("tail", stranger.poll(sim.now).frames[0][1], f"stranger{index}")
    sim.run(S)
    assert len(tail._peers) == 8
    sim.run(4 * S)
    assert tail._peers == {}
    head = sim.head()
    head.connect(sim.now)
    assert sim.run(S, lambda: bool(sim.of("head", SessionOpened)))
