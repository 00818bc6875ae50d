"""What a sender does with what comes back: SPEC 3.1, 4 and 4.1."""

import pytest
from simulation import MS, S, Simulation, network

from host.link import frames
from host.link.errors import ErrorCode
from host.link.events import MessageSent
from host.link.frames import Ack, Data, Poll, Reject, Seal
from host.link.session import Profile
from host.link.transfer import NotSent, Outgoing, RoundTrip, Sender, Sent

SEAL = Seal(0x0B67EF2D)
FRAME = 128
P = FRAME - 8
FAR = 1 << 50


class Bench:
    """A sender; `data` is what it sent since the last look."""

    def __init__(self, **kwargs: int) -> None:
        self.rtt = RoundTrip(5_000, 0)
        options = {"window": 16, "peer_window": 16, "peer_slots": 8, "peer_max_message": 100_000}
        self.sender = Sender(SEAL, FRAME, self.rtt, **{**options, **kwargs})
        self.now = 0
        self.token = 0

    def submit(self, fragments: int, kind: int = 3, deadline_us: int = FAR) -> None:
        self.token += 1
        body = bytes(fragments * P - 16)
        message = Outgoing(self.token, kind, body, self.now, deadline_us)
        assert self.sender.submit(message) is None

    def out(self, budget: int = 1000) -> list[frames.SessionFrame]:
        flushed = self.sender.flush(self.now, budget)
        decoded = [frames.decode(frame, SEAL) for frame in flushed]
        return [frame for frame in decoded if frame is not None]

    def data(self) -> list[int]:
        return [frame.fragment for frame in self.out() if isinstance(frame, Data)]

    def ack(self, ack: Ack) -> Sent | None:
        return self.sender.ack(ack, self.now)


def ack(base: int, echo: int, have: int = 0, **kwargs: int) -> Ack:
    fields = {"message": 1, "attempt": 0, "delay": 0, "limit": 8, **kwargs}
    complete = bool(fields.pop("complete", 0))
    dup = bool(fields.pop("dup", 0))
    return Ack(base=base, echo=echo, have=have, complete=complete, dup=dup, **fields)


def test_ackreq_at_the_end_and_every_half_window() -> None:
    bench = Bench()
    bench.submit(20)
    asked = [f.fragment for f in bench.out() if isinstance(f, Data) and f.ack_requested]
    assert asked == [7, 15]


def test_window_of_the_peer() -> None:
    bench = Bench(peer_window=4)
    bench.submit(10)
    assert bench.data() == [0, 1, 2, 3]
    bench.now = 1000
    bench.ack(ack(2, 3, have=1))
    assert bench.data() == [4, 5]


def test_lost_by_order() -> None:
    bench = Bench()
    bench.submit(8)
    bench.data()
    bench.now = 1000
    bench.ack(ack(1, 4, have=0b111))
    assert bench.data() == [1]


def test_lost_by_time() -> None:
    bench = Bench()
    bench.submit(3)
    bench.data()
    bench.now = 8_000
    bench.ack(ack(1, 2, have=1))
    assert bench.data() == []
    assert bench.sender.deadline() == 9_000
    bench.now = 9_000
    assert bench.data() == [1]


def test_before_a_sample_only_the_count_says_lost() -> None:
    bench = Bench()
    bench.submit(3)
    bench.data()
    bench.now = 250_000
    assert bench.data() == [2]
    bench.now = 8_000_000
    bench.ack(ack(0, 2, have=0b10))  # Of the first transmission: no sample.
    assert bench.data() == []
    assert bench.sender.deadline() == 8_250_000
    bench.rtt.sample(1_000)
    assert bench.data() == [0, 1]


def test_retransmission_is_not_lost_by_older_arrivals() -> None:
    bench = Bench()
    bench.submit(8)
    bench.data()
    bench.now = 1000
    bench.ack(ack(1, 4, have=0b111))
    assert bench.data() == [1]
    bench.ack(ack(1, 7, have=0b111111))
    assert bench.data() == []


def test_row_of_probes_is_data_now_and_then_and_a_ping_more_rarely() -> None:
    bench = Bench()
    bench.submit(3)
    bench.data()
    row, pings = [], []
    for probe in range(1, 20):
        bench.now = bench.sender.deadline()
        (frame,) = bench.out()
        row.append(frame.fragment if isinstance(frame, Data) else "P")
        if bench.sender.want_ping:
            pings.append(probe)
            bench.sender.want_ping = False
    assert row == [2, *"PPPPPP", 0, *"PPPPPPP", 0, *"PPP"]
    assert pings == [2, 10, 18]


def test_answer_to_a_long_row_gives_no_sample() -> None:
    """Attempts count modulo four: the fifth transmission looks like the first."""
    for probes, known in ((4, True), (5, False)):
        bench = Bench()
        bench.submit(2)
        bench.data()
        for _ in range(probes):
            bench.now = bench.sender.deadline()
            bench.out()
        bench.now += 1_000
        bench.ack(ack(0, 1, have=1, attempt=1))
        assert (bench.rtt.smoothed_us is not None) == known


def test_rows_of_probes_end_before_the_deadline() -> None:
    """RTT 100 ms, half of all frames lost each way: three of four probes go unanswered."""
    sim = Simulation(3, network(loss=0.5, delay_us=50 * MS))
    head = sim.head(profile=Profile(mtu=250))
    sim.tail()
    sim.give_back("tail")
    head.connect(sim.now)
    for inference in range(60):
        head.send_tensor(inference, [bytes(5488)], sim.now, deadline_us=sim.now + 10 * S)
        done = inference + 1
        assert sim.run(11 * S, lambda done=done: len(sim.of("head", MessageSent)) == done)


def test_karn() -> None:
    bench = Bench()
    bench.submit(1)
    bench.data()
    bench.now = 250_000
    bench.data()
    bench.now = 251_000
    bench.ack(ack(1, 0, complete=1))
    assert bench.rtt.smoothed_us is None


def test_rtt_without_the_peers_delay() -> None:
    bench = Bench()
    bench.submit(1)
    bench.data()
    bench.now = 10_000
    bench.ack(ack(1, 0, complete=1, delay=100))
    assert bench.rtt.smoothed_us == 8_400


def test_rfc_6298() -> None:
    rtt = RoundTrip(5_000, 1_000)
    assert rtt.rto_us == 250_000
    rtt.sample(8_000)
    assert rtt.rto_us == 8_000 + 16_000 + 1_000
    rtt.sample(8_000)
    assert rtt.rto_us == 8_000 + 12_000 + 1_000


@pytest.mark.parametrize(
    "bad",
    [
        ack(9, 1),
        ack(2, 1, have=0b1000),
        ack(2, 1, complete=1),
        ack(4, 1, complete=1),
        ack(3, 2, complete=1, have=1),
        ack(1, 1, limit=10),
        ack(1, 1, limit=30_000),
    ],
)
def test_acks_that_cannot_be_true_are_dropped(bad: Ack) -> None:
    bench = Bench(window=3)
    bench.submit(3)
    bench.data()
    bench.ack(bad)
    assert bench.sender.counters.dropped == 1
    bench.now = 250_000
    assert bench.data() == [2]


def test_limit_of_an_unknown_message_counts() -> None:
    bench = Bench(peer_slots=1)
    bench.submit(1)
    bench.submit(1)
    bench.data()
    assert bench.ack(ack(1, 0, complete=1, limit=1)) is not None
    assert bench.data() == []
    bench.ack(ack(1, frames.ECHO_NONE, complete=1, limit=2))
    assert bench.data() == [0]


def test_asks_when_the_limit_holds_it_back() -> None:
    bench = Bench(peer_slots=1)
    bench.submit(1)
    bench.submit(1)
    bench.data()
    bench.now = 1_000
    bench.ack(ack(1, 0, complete=1, limit=1))
    polls = 0
    for _ in range(100):
        bench.out()
        bench.now = bench.sender.deadline()
        polls += len(bench.out())
        bench.ack(ack(0, frames.ECHO_POLL, message=2, attempt=polls & 3, limit=1))
    assert polls == 100
    assert bench.now > 40_000_000  # Twice a second: it answers, so it is busy and not unheard.
    bench.ack(ack(0, frames.ECHO_POLL, message=2, attempt=0, limit=2))
    assert bench.data() == [0]


def test_at_most_eight_unresolved() -> None:
    bench = Bench(window=64, peer_slots=8)
    for _ in range(10):
        bench.submit(1)
    assert len(bench.data()) == 8
    bench.ack(ack(1, 0, message=2, complete=1, limit=9))
    assert bench.data() == []
    bench.ack(ack(1, 0, message=1, complete=1, limit=10))
    assert len(bench.data()) == 2


def test_older_first_and_blobs_last() -> None:
    bench = Bench(window=64)
    bench.submit(2, kind=4)
    bench.submit(1)
    kinds = [frame.message for frame in bench.out() if isinstance(frame, Data)]
    assert kinds == [1, 2, 2]
    assert bench.sender.unresolved()[0].kind == 4


def test_integrity_is_tried_three_times() -> None:
    bench = Bench()
    bench.submit(1)
    for number in (1, 2):
        bench.data()
        assert bench.sender.reject(Reject(number, ErrorCode.INTEGRITY, 8), 0) is None
    bench.data()
    last = bench.sender.reject(Reject(3, ErrorCode.INTEGRITY, 8), 0)
    assert isinstance(last, NotSent)
    assert last.error.code == ErrorCode.INTEGRITY


def test_any_other_rejection_ends_it() -> None:
    bench = Bench()
    bench.submit(1)
    bench.data()
    over = bench.sender.reject(Reject(1, 0x8001, 8), 0)
    assert over is not None
    assert str(over.error) == "private error 0x8001: the link failed"


def test_given_up_messages_are_told_until_answered() -> None:
    bench = Bench()
    bench.submit(1, deadline_us=100)
    bench.data()
    bench.now = 100
    assert [over.error.code for over in bench.sender.expire(100)] == [ErrorCode.DEADLINE]
    assert bench.out() == [Poll(2, 2, 1)]
    bench.now = bench.sender.deadline()
    assert bench.out() == [Poll(2, 2, 2)]
    bench.ack(ack(0, frames.ECHO_POLL, message=2, attempt=2))
    assert bench.sender.deadline() > FAR


def test_reorder_grows_with_needless_retransmissions() -> None:
    bench = Bench()
    bench.submit(10)
    bench.data()
    bench.now = 1000
    bench.ack(ack(1, 4, have=0b111))
    assert bench.data() == [1]
    bench.ack(ack(5, 1, attempt=1, dup=1))
    assert bench.sender._reorder == 4


def test_fourth_probe_halves_the_window() -> None:
    bench = Bench(window=16)
    bench.submit(1)
    bench.data()
    for _ in range(4):
        bench.now = bench.sender.deadline()
        bench.out()
    assert bench.sender._window == 8


def test_pacing() -> None:
    bench = Bench(pace_bps=8 * FRAME * 1000, window=64, peer_window=64)  # One frame per ms.
    bench.now = 1_000_000
    bench.submit(50)
    sent = len(bench.data())
    for _ in range(20):
        bench.now += 1_000
        sent += len(bench.data())
    assert 28 <= sent <= 32


def test_pacing_does_not_ask_for_an_ack_per_frame() -> None:
    bench = Bench(pace_bps=8 * FRAME * 1000, window=16)
    bench.now = 1_000_000
    bench.submit(14)
    asked = []
    for _ in range(30):
        asked += [f.fragment for f in bench.out() if isinstance(f, Data) and f.ack_requested]
        bench.now += 1_000
    assert asked == [7, 13]


def test_a_receiver_whose_patience_ended_gets_it_again() -> None:
    bench = Bench()
    bench.submit(3)
    bench.data()
    bench.ack(ack(2, 1))
    assert bench.sender.reject(Reject(1, ErrorCode.DEADLINE, 5), 0) is None
    again = [(f.message, f.fragment) for f in bench.out() if isinstance(f, Data)]
    assert again == [(2, 0), (2, 1), (2, 2)]


def test_what_is_acknowledged_is_never_taken_back() -> None:
    bench = Bench()
    bench.submit(3)
    bench.data()
    bench.now = 300_000
    bench.out()
    bench.now = 600_000
    assert bench.out() == [Poll(1, 1, 1)]
    bench.ack(ack(2, 1))  # What came after the answer to the POLL overtakes it.
    bench.ack(ack(0, frames.ECHO_POLL, attempt=1))
    assert bench.data() == []


def test_doubling_stops_at_a_tenth_of_a_second() -> None:
    bench = Bench()
    bench.rtt.sample(10_000)
    bench.submit(1)
    bench.data()
    waits = []
    for _ in range(9):
        due = bench.sender.deadline()
        waits.append(due - bench.now)
        bench.now = due
        bench.out()
    assert waits == [30_000] * 4 + [60_000] + [100_000] * 4
