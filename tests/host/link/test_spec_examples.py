"""Every hex example of the specification, coded and decoded."""

import pytest
from link_spec import SID, examples

from host.link import frames, messages, streams
from host.link.frames import Ack, Bye, Data, Hello, Kind, Ping, Poll, Pong, Reject, Reset, Seal
from partitioner import codec

EXAMPLES = examples()
SEAL = Seal(SID)
BUNDLE = bytes(range(32))
HELLO = Hello(
    initiator_nonce=0x11223344, mtu=250, window=64, max_message=8192, slots=2,
    role=1, stage=0, stage_count=2, codecs=1, ack_delay=10, idle_timeout=150, bundle=BUNDLE,
)  # fmt: skip
ACK = Hello(
    initiator_nonce=0x11223344, acceptor_nonce=0xA1B2C3D4, mtu=250, window=64, max_message=8192,
    slots=2, role=3, stage=1, stage_count=2, codecs=1, ack_delay=10, idle_timeout=150,
    bundle=BUNDLE,
)  # fmt: skip
SESSION_FRAMES = {
    "data_single": Data(1, 0, EXAMPLES["tensor_message"], last=True, ack_requested=True),
    "ack_complete": Ack(1, 1, 0, 0, 3, 3, complete=True),
    "ack_gap": Ack(2, 1, 3, 0, 0, 3, have=0x06),
    "poll": Poll(2, 2, 1),
    "reject": Reject(3, 10, 4, 8192),
    "ping": Ping(5, SID, 1_000_000),
    "pong": Pong(5, SID, 1_000_000, 5_000_250, 5_000_300),
    "reset": Reset(5, SID),
    "bye": Bye(15, SID),
}
BODIES = {
    "tensor_body": messages.encode_tensors(7, [bytes((1, 2, 3, 4))], stage=0),
    "result_body": messages.encode_results(
        7, [b"\x09"],
        [messages.PhaseRecord(1, 4, 12), messages.PhaseRecord(1, 1, 34567)], stage=1,
    ),
}  # fmt: skip
MESSAGES = {
    "tensor_message": (1, 1, BODIES["tensor_body"], 2000),
    "result_message": (2, 1, BODIES["result_body"], 0),
    "blob_message": (4, 3, messages.encode_blob(1, 4096, 8192, b"\xe9\x00\x10"), 0),
    "control_message": (3, 2, messages.encode_control({"cmd": "info"}), 0),
    "error_message": (5, 4, messages.encode_failure(7, 19, 1, "arena"), 0),
}
OTHERS = {
    "hello", "hello_ack", "hello_ack_refused", "forward", "stream_length_prefix", "stream_cobs",
    "wire_frame", "wire_sync", "credit", "coded_tensor",
}  # fmt: skip


def test_no_example_is_forgotten() -> None:
    assert set(EXAMPLES) == set(SESSION_FRAMES) | set(BODIES) | set(MESSAGES) | OTHERS


def test_session_id_of_the_examples() -> None:
    assert frames.session_id(0x11223344, 0xA1B2C3D4) == SID
    assert SEAL.tag == 0x2D


def test_checksum_check_values() -> None:
    import binascii
    import zlib

    assert binascii.crc_hqx(b"123456789", 0xFFFF) == 0x29B1
    assert zlib.crc32(b"123456789") == 0xCBF43926


@pytest.mark.parametrize("name", SESSION_FRAMES)
def test_session_frame(name: str) -> None:
    frame = SESSION_FRAMES[name]
    assert frame.encode(SEAL) == EXAMPLES[name]
    assert frames.decode(EXAMPLES[name], SEAL) == frame


def test_hello() -> None:
    assert HELLO.encode(Kind.HELLO) == EXAMPLES["hello"]
    assert frames.decode_hello(EXAMPLES["hello"], Kind.HELLO) == HELLO
    assert ACK.encode(Kind.HELLO_ACK) == EXAMPLES["hello_ack"]
    assert frames.decode_hello(EXAMPLES["hello_ack"], Kind.HELLO_ACK) == ACK


def test_refusal() -> None:
    decoded = frames.decode_hello(EXAMPLES["hello_ack_refused"], Kind.HELLO_ACK)
    assert decoded is not None
    assert (decoded.status, decoded.acceptor_nonce) == (5, 0)
    assert decoded.encode(Kind.HELLO_ACK) == EXAMPLES["hello_ack_refused"]


@pytest.mark.parametrize("name", BODIES)
def test_body(name: str) -> None:
    assert BODIES[name] == EXAMPLES[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str) -> None:
    kind, message_id, body, ttl_ms = MESSAGES[name]
    expected = EXAMPLES[name]
    assert messages.encode_message(SID, kind, message_id, body, ttl_ms) == expected
    envelope = messages.decode_envelope(expected)
    assert envelope[:5] == (kind, 0, ttl_ms, message_id, len(body))
    assert messages.message_crc(SID, expected) == envelope.crc


def test_bodies_decode() -> None:
    tensors = messages.decode_tensors(EXAMPLES["tensor_body"])
    assert (tensors.inference_id, tensors.stage, tensors.codec) == (7, 0, 0)
    assert [bytes(t) for t in tensors.tensors] == [b"\1\2\3\4"]
    result = messages.decode_results(EXAMPLES["result_body"])
    assert result.phases == ((1, 4, 12), (1, 1, 34567))
    assert bytes(result.tensors[0]) == b"\x09"
    blob = messages.decode_blob(EXAMPLES["blob_message"][16:])
    assert (blob.blob_id, blob.offset, blob.total, bytes(blob.piece)) == (
        1, 4096, 8192, b"\xe9\x00\x10",
    )  # fmt: skip
    assert messages.decode_control(EXAMPLES["control_message"][16:]) == {"cmd": "info"}
    assert messages.decode_failure(EXAMPLES["error_message"][16:]) == (7, 19, 1, "arena")


def test_credit() -> None:
    assert frames.encode_credit(8, 5) == EXAMPLES["credit"]
    assert frames.decode_credit(EXAMPLES["credit"]) == (8, 5)


def test_coded_tensor() -> None:
    tensor = bytearray(b"\x80" * 32)
    for place, value in ((3, 0x83), (5, 0x91), (10, 0xA2), (14, 0x86), (22, 0xFD), (28, 0x85)):
        tensor[place] = value
    assert codec.encode(tensor) == EXAMPLES["coded_tensor"]
    assert codec.decode(EXAMPLES["coded_tensor"], 32) == tensor


def test_forward() -> None:
    address, inner = bytes.fromhex("0200deadbeef"), EXAMPLES["poll"]
    assert frames.encode_forward(address, inner) == EXAMPLES["forward"]
    assert frames.decode_forward(EXAMPLES["forward"]) == (address, inner)
    assert frames.decode_forward(frames.encode_forward(address, EXAMPLES["forward"])) is None


def test_streams() -> None:
    assert streams.length_prefixed(EXAMPLES["poll"]) == EXAMPLES["stream_length_prefix"]
    assert streams.cobs_encode(EXAMPLES["poll"]) == EXAMPLES["stream_cobs"]
    assert streams.CobsDecoder(128).feed(EXAMPLES["stream_cobs"]) == [EXAMPLES["poll"]]
    assert streams.wire_encode(EXAMPLES["poll"]) == EXAMPLES["wire_frame"]
    assert streams.wire_encode(b"") == streams.WIRE_SYNC == EXAMPLES["wire_sync"]
