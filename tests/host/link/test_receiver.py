"""What a receiver does with each kind of input: SPEC 3.2, row by row."""

import pytest

from host.link import frames
from host.link.errors import ErrorCode
from host.link.frames import Ack, Data, Kind, Reject, Seal
from host.link.messages import encode_message
from host.link.transfer import Delivered, Receiver

SEAL = Seal(0x0B67EF2D)
FRAME = 128
P = FRAME - 8
BODY = bytes(range(256)) + b"end"  # With the envelope: 3 fragments of 120, 120 and 35 bytes.


class Bench:
    """A receiver, and messages for it."""

    def __init__(self, **kwargs: int) -> None:
        options = {"slots": 2, "window": 8, "max_message": 1000, **kwargs}
        self.receiver = Receiver(
            SEAL,
            FRAME,
            judge=lambda kind: 0 if kind == 3 else ErrorCode.UNSUPPORTED,
            **options,
        )
        self.now = 0

    def frames_of(self, number: int, body: bytes = BODY, kind: int = 3) -> list[Data]:
        wire = encode_message(SEAL.sid, kind, number, body)
        pieces = [wire[at : at + P] for at in range(0, len(wire), P)]
        last = len(pieces) - 1
        return [
            Data(number & 0xFFFF, index, piece, index == last, index == last)
            for index, piece in enumerate(pieces)
        ]

    def put(self, *data: Data) -> Delivered | None:
        delivered = None
        for frame in data:
            delivered = self.receiver.data(frame.encode(SEAL), self.now)
        return delivered

    def answers(self) -> list[frames.SessionFrame]:
        decoded = [frames.decode(frame, SEAL) for frame in self.receiver.flush(self.now)]
        return [frame for frame in decoded if frame is not None]

    @property
    def dropped(self) -> int:
        return self.receiver.counters.dropped


def test_in_order() -> None:
    bench = Bench()
    delivered = bench.put(*bench.frames_of(1))
    assert delivered is not None
    assert bytes(delivered.body) == BODY
    assert bench.answers() == [Ack(1, 3, 2, 0, 0, 2, complete=True)]


def test_no_answer_without_a_reason() -> None:
    bench = Bench()
    bench.put(*bench.frames_of(1)[:2])
    assert bench.answers() == []


def test_a_gap_is_told_at_once() -> None:
    bench = Bench()
    first, second, third = bench.frames_of(1)
    bench.put(first, third._replace(ack_requested=False))
    assert bench.answers() == [Ack(1, 1, 2, 0, 0, 2, have=1)]
    assert bench.put(second) is not None


def test_out_of_order_with_the_envelope_last() -> None:
    bench = Bench()
    delivered = bench.put(*reversed(bench.frames_of(1)))
    assert delivered is not None
    assert bytes(delivered.body) == BODY


def test_delay_counts_from_arrival_to_departure() -> None:
    bench = Bench()
    bench.put(*bench.frames_of(1))
    bench.now = 1600
    answer = bench.answers()[0]
    assert isinstance(answer, Ack)
    assert answer.delay == 100


def test_row_2_old_ids_and_id_zero() -> None:
    bench = Bench(slots=8)
    for number in range(1, 12):
        delivered = bench.put(*bench.frames_of(number))
        assert delivered is not None
        bench.receiver.release(number, 0)
    bench.answers()
    bench.put(bench.frames_of(3)[0], bench.frames_of(0)[0])
    assert (bench.dropped, bench.answers()) == (2, [])


def test_row_3_beyond_the_limit() -> None:
    bench = Bench()
    bench.put(bench.frames_of(3)[0])
    assert (bench.dropped, bench.receiver.busy_slots) == (1, 0)


def test_row_4_complete_again() -> None:
    bench = Bench()
    bench.put(*bench.frames_of(1))
    bench.answers()
    assert bench.put(bench.frames_of(1)[1]._replace(attempt=1)) is None
    assert bench.answers() == [Ack(1, 3, 1, 1, 0, 2, complete=True, dup=True)]


def test_row_5_rejected_again() -> None:
    bench = Bench()
    bench.put(*bench.frames_of(1, kind=9))
    expected = Reject(1, ErrorCode.UNSUPPORTED, 3)
    assert bench.answers() == [expected] * 3


def test_row_6_abandoned() -> None:
    bench = Bench()
    bench.put(bench.frames_of(1)[0])
    bench.receiver.poll(1, 2, 1, 0)
    assert bench.answers() == [Ack(1, 0, frames.ECHO_POLL, 1, 0, 3)]
    bench.put(bench.frames_of(1)[1])
    assert (bench.dropped, bench.receiver.busy_slots) == (1, 0)


def test_row_7_ids_that_fall_behind_are_abandoned() -> None:
    bench = Bench(slots=8)
    bench.put(bench.frames_of(1)[0])
    for number in range(2, 10):
        if number <= bench.receiver.limit:
            bench.put(*bench.frames_of(number))
            bench.receiver.release(number, 0)
    assert bench.receiver.limit == 8 + 9
    assert bench.receiver.busy_slots == 0


@pytest.mark.parametrize(
    "data",
    [
        Data(1, 0, b"short" * 10),
        Data(1, 0, b"short", last=True),
        Data(1, 1, bytes(P - 1)),
        Data(1, 8, bytes(P)),
    ],
)
def test_rows_9_and_11_sizes_and_window(data: Data) -> None:
    bench = Bench()
    bench.put(data)
    assert bench.dropped == 1
    assert bench.answers() == []


def test_longer_than_a_frame() -> None:
    bench = Bench()
    bench.put(Data(1, 1, bytes(P + 1)))
    assert bench.dropped == 1


def test_row_10_below_the_base() -> None:
    bench = Bench()
    bench.put(*bench.frames_of(1)[:2])
    bench.put(bench.frames_of(1)[0])
    assert bench.answers() == [Ack(1, 2, 0, 0, 0, 2, dup=True)]


def test_row_12_two_totals() -> None:
    bench = Bench()
    first, second, third = bench.frames_of(1)
    bench.put(third)
    bench.put(Data(1, 1, b"x", last=True), Data(1, 3, b"x", last=True), Data(1, 4, bytes(P)))
    bench.put(Data(1, 2, bytes(P)))
    assert bench.dropped == 4
    assert bench.put(first, second) is not None


def test_row_12_last_before_one_already_here() -> None:
    bench = Bench()
    bench.put(Data(1, 4, bytes(P)), Data(1, 3, b"x", last=True))
    assert bench.dropped == 1


def test_row_14_header_invalid() -> None:
    bench = Bench()
    wire = bytearray(encode_message(SEAL.sid, 3, 1, b"x"))
    wire[1] = 1
    bench.put(Data(1, 0, bytes(wire), last=True))
    bench.put(Data(2, 0, encode_message(SEAL.sid, 3, 7, b"x"), last=True))
    codes = [answer.code for answer in bench.answers() if isinstance(answer, Reject)]
    assert codes == [ErrorCode.MALFORMED] * 2


def test_row_16_too_large() -> None:
    bench = Bench()
    bench.put(bench.frames_of(1, bytes(1001))[0])
    assert bench.answers() == [Reject(1, ErrorCode.TOO_LARGE, 3, 1000)]


def test_row_16_beyond_the_buffer_before_the_envelope() -> None:
    bench = Bench(window=64)
    bench.put(Data(1, 9, bytes(P)))
    assert bench.answers() == [Reject(1, ErrorCode.TOO_LARGE, 3, 1000)]


@pytest.mark.parametrize("length", [0, 100, 500])
def test_row_17_length_against_what_came(length: int) -> None:
    bench = Bench()
    first, second, third = bench.frames_of(1)
    wrong = bytearray(first.payload)
    wrong[8:12] = length.to_bytes(4, "little")
    bench.put(third, second, first._replace(payload=bytes(wrong)))
    assert bench.answers()[-1] == Reject(1, ErrorCode.INTEGRITY, 3)


def test_row_17_a_single_fragment_without_last() -> None:
    bench = Bench()
    data = bench.frames_of(1, bytes(P - 16))[0]
    bench.put(data._replace(last=False))
    assert bench.answers() == [Reject(1, ErrorCode.INTEGRITY, 3)]


@pytest.mark.parametrize("change", [b"END", b"en", b"endx"])
def test_row_19_whole_message_check(change: bytes) -> None:
    bench = Bench()
    first, second, third = bench.frames_of(1)
    third = third._replace(payload=third.payload[:-3] + change)
    assert bench.put(first, second, third) is None
    assert bench.answers() == [Reject(1, ErrorCode.INTEGRITY, 3)]


def test_release_is_told_only_to_a_sender_that_may_wait() -> None:
    bench = Bench()
    bench.put(*bench.frames_of(1))
    bench.answers()
    bench.receiver.release(1, 0)
    assert bench.answers() == []
    bench.put(*bench.frames_of(2))
    bench.put(*bench.frames_of(3))
    bench.answers()
    bench.receiver.release(2, 0)
    assert bench.answers() == [Ack(2, 3, frames.ECHO_NONE, 0, 0, 4, complete=True)]


def test_poll() -> None:
    bench = Bench()
    first, _, third = bench.frames_of(1)
    bench.put(first, third)
    bench.answers()
    bench.receiver.poll(1, 1, 2, 0)
    assert bench.answers() == [Ack(1, 1, frames.ECHO_POLL, 2, 0, 2, have=1)]
    bench.receiver.poll(2, 1, 3, 0)
    assert bench.answers() == [Ack(2, 0, frames.ECHO_POLL, 3, 0, 2)]


def test_poll_with_an_impossible_oldest() -> None:
    bench = Bench()
    bench.receiver.poll(1, 4, 0, 0)
    assert (bench.dropped, bench.answers()) == (1, [])


def test_partial_timeout() -> None:
    bench = Bench()
    bench.put(bench.frames_of(1)[0])
    bench.receiver.expire(9_999_999)
    assert bench.receiver.busy_slots == 1
    bench.receiver.expire(10_000_000)
    assert (bench.receiver.busy_slots, bench.receiver.limit) == (0, 3)
    assert bench.answers() == [Reject(1, ErrorCode.DEADLINE, 3)]


def test_ids_go_beyond_16_bits() -> None:
    bench = Bench()
    for number in range(1, 70_000):
        if number % 8:
            bench.receiver.poll(number & 0xFFFF, number & 0xFFFF, 0, 0)
            continue
        delivered = bench.put(*bench.frames_of(number, b"tick"))
        assert delivered is not None
        assert delivered.message_id == number
        bench.receiver.release(number, 0)
        bench.receiver.flush(0)


def test_kinds() -> None:
    assert [kind.value for kind in Kind] == list(range(1, 12))
