"""The shared vectors: the same bytes that the C core is tested with."""

import binascii
import zlib
from typing import Any

import pytest
from link_spec import examples, vectors

from host.link import frames, messages, streams
from host.link.errors import MalformedError
from host.link.frames import Ack, Bye, Data, Kind, Ping, Poll, Pong, Reject, Reset, Seal
from host.link.session import Node, Role, judge_hello
from partitioner import codec
from partitioner.codec import CodecError, Near

VECTORS = vectors()
pytestmark = pytest.mark.skipif(not VECTORS, reason="tests/vectors/link.txt is not here")
HELLO_FIELDS = {
    "nonce_i": "initiator_nonce",
    "nonce_a": "acceptor_nonce",
    **{
        name: name
        for name in (
            "version_max", "version_min", "mtu", "window", "max_message", "slots", "role",
            "stage", "stage_count", "codecs", "ack_delay", "idle_timeout", "status",
        )
    },
}  # fmt: skip


def of(*types: str) -> list[Any]:
    return [pytest.param(v, id=v["vector"]) for v in VECTORS if v["type"] in types]


def number(vector: dict[str, str], key: str) -> int:
    return int(vector.get(key) or 0)


def check(vector: dict[str, str], ours: bytes) -> None:
    if vector.get("encode") != "no":
        assert ours.hex() == vector["hex"]


def test_the_specification_has_the_same_examples() -> None:
    by_name = {v["vector"]: v.get("hex") for v in VECTORS}
    for name, data in examples().items():
        assert by_name[name] == data.hex(), name


def test_every_type_is_covered() -> None:
    known = {
        "crc", "sid", "hello", "frame", "forward", "credit", "message", "tensor", "result", "error",
        "blob", "coded", "prefix", "cobs", "wire", "judge",
    }  # fmt: skip
    assert {v["type"] for v in VECTORS} <= known


@pytest.mark.parametrize("v", of("crc"))
def test_crc(v: dict[str, str]) -> None:
    data = v["data"].encode()
    assert binascii.crc_hqx(data, 0xFFFF) == number(v, "crc16")
    assert zlib.crc32(data) == number(v, "crc32")


@pytest.mark.parametrize("v", of("sid"))
def test_sid(v: dict[str, str]) -> None:
    assert frames.session_id(number(v, "nonce_i"), number(v, "nonce_a")) == number(v, "sid")


@pytest.mark.parametrize("v", of("hello"))
def test_hello(v: dict[str, str]) -> None:
    kind = Kind(number(v, "kind"))
    hello = frames.decode_hello(bytes.fromhex(v["hex"]), kind)
    if v["verdict"] == "drop":
        assert hello is None
        return
    assert hello is not None
    for theirs, ours in HELLO_FIELDS.items():
        assert getattr(hello, ours) == number(v, theirs), theirs
    assert hello.bundle.hex() == v["bundle"]
    check(v, hello.encode(kind))


@pytest.mark.parametrize("v", of("frame"))
def test_frame(v: dict[str, str]) -> None:
    seal = Seal(number(v, "sid"))
    frame = frames.decode(bytes.fromhex(v["hex"]), seal)
    if v["verdict"] == "drop":
        assert frame is None
        return
    message, flags, attempt = number(v, "message"), number(v, "flags"), number(v, "attempt")
    seq, payload = number(v, "seq"), bytes.fromhex(v.get("payload", ""))
    expected = {
        Kind.DATA: Data(
            message, number(v, "fragment"), payload, bool(flags & 1), bool(flags & 2), attempt
        ),
        Kind.ACK: Ack(
            message,
            number(v, "base"),
            number(v, "echo"),
            attempt,
            number(v, "delay"),
            number(v, "limit"),
            int.from_bytes(payload, "little"),
            bool(flags & 1),
            bool(flags & 2),
        ),
        Kind.POLL: Poll(message, number(v, "oldest"), attempt),
        Kind.REJECT: Reject(message, number(v, "code"), number(v, "limit"), number(v, "detail")),
        Kind.PING: Ping(seq, seal.sid, number(v, "t1")),
        Kind.PONG: Pong(seq, seal.sid, number(v, "t1"), number(v, "t2"), number(v, "t3")),
        Kind.RESET: Reset(seq, seal.sid),
        Kind.BYE: Bye(number(v, "code"), seal.sid),
    }[Kind(number(v, "kind"))]
    assert frame == expected
    assert type(frame) is type(expected)
    check(v, expected.encode(seal))


@pytest.mark.parametrize("v", of("forward"))
def test_forward(v: dict[str, str]) -> None:
    decoded = frames.decode_forward(bytes.fromhex(v["hex"]))
    if v["verdict"] == "drop":
        assert decoded is None
    else:
        assert decoded == (bytes.fromhex(v["addr"]), bytes.fromhex(v["inner"]))
        check(v, frames.encode_forward(*decoded))


@pytest.mark.parametrize("v", of("credit"))
def test_credit(v: dict[str, str]) -> None:
    decoded = frames.decode_credit(bytes.fromhex(v["hex"]))
    if v["verdict"] == "drop":
        assert decoded is None
    else:
        assert decoded == (number(v, "window"), number(v, "count"))
        check(v, frames.encode_credit(*decoded))


@pytest.mark.parametrize("v", of("message"))
def test_message(v: dict[str, str]) -> None:
    data, sid = bytes.fromhex(v["hex"]), number(v, "sid")
    envelope = messages.decode_envelope(data)
    right = envelope.flags == 0 and messages.message_crc(sid, data) == envelope.crc
    assert right == (v["verdict"] == "ok")
    if right:
        fields = (number(v, "kind"), 0, number(v, "ttl"), number(v, "id"), len(data) - 16)
        assert envelope[:5] == fields
        assert data[16:].hex() == v["body"]
        ours = messages.encode_message(sid, fields[0], fields[3], data[16:], fields[2])
        check(v, ours)


@pytest.mark.parametrize("v", of("tensor", "result", "error", "blob"))
def test_body(v: dict[str, str]) -> None:
    decode: Any = {
        "tensor": messages.decode_tensors,
        "result": messages.decode_results,
        "error": messages.decode_failure,
        "blob": messages.decode_blob,
    }[v["type"]]
    data = bytes.fromhex(v["hex"])
    if v["verdict"] == "drop":
        with pytest.raises(MalformedError):
            decode(data)
        return
    got = decode(data)
    if v["type"] in ("tensor", "result"):
        tensors = [bytes.fromhex(part) for part in v["tensors"].split(" ")]
        assert [bytes(t) for t in got.tensors] == tensors
        assert (got.inference_id, got.stage) == (number(v, "inference"), number(v, "stage"))
    if v["type"] == "tensor":
        assert got.codec == number(v, "codec")
        ours = messages.encode_tensors(
            got.inference_id, got.tensors, stage=got.stage, codec=got.codec
        )
    elif v["type"] == "result":
        assert " ".join(f"{p.stage}/{p.phase}/{p.duration_us}" for p in got.phases) == v["phases"]
        ours = messages.encode_results(got.inference_id, got.tensors, got.phases, stage=got.stage)
    elif v["type"] == "error":
        expected = (number(v, "inference"), number(v, "code"), number(v, "stage"), v["text"])
        assert got == expected
        ours = messages.encode_failure(*got)
    else:
        assert got[:3] == (number(v, "id"), number(v, "offset"), number(v, "total"))
        assert bytes(got.piece).hex() == v["data"]
        ours = messages.encode_blob(*got)
    check(v, ours)


@pytest.mark.parametrize("v", of("coded"))
def test_coded(v: dict[str, str]) -> None:
    data, limit = bytes.fromhex(v["hex"]), number(v, "limit")
    if v["verdict"] != "ok":
        with pytest.raises(CodecError) as caught:
            codec.decode(data, limit)
        assert caught.value.too_large == (v["verdict"] == "too_large")
        return
    tensor = codec.decode(data, limit)
    assert tensor.hex() == v["tensor"]
    left, above = number(v, "left"), number(v, "above")
    check(v, codec.encode(tensor, Near(left, above) if left else None))


@pytest.mark.parametrize("v", of("prefix", "cobs"))
@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_stream(v: dict[str, str], step: int) -> None:
    data = bytes.fromhex(v["hex"])
    mtu = number(v, "mtu")
    prefix = v["type"] == "prefix"
    decoder: Any = (streams.LengthPrefixDecoder if prefix else streams.CobsDecoder)(mtu)

    def feed() -> list[bytes]:
        return [f for at in range(0, len(data), step) for f in decoder.feed(data[at : at + step])]

    if v["verdict"] == "drop":
        with pytest.raises(MalformedError):
            feed()
        return
    expected = [bytes.fromhex(part) for part in v["frames"].split(" ") if part]
    assert feed() == expected
    code = streams.length_prefixed if prefix else streams.cobs_encode
    check(v, b"".join(map(code, expected)))


@pytest.mark.parametrize("v", of("wire"))
@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_wire(v: dict[str, str], step: int) -> None:
    data = bytes.fromhex(v["hex"])
    decoder = streams.WireDecoder(number(v, "mtu"))
    found = [p for at in range(0, len(data), step) for p in decoder.feed(data[at : at + step])]
    got = [p.data for p in found if p.kind is streams.On.FRAME]
    assert got == [bytes.fromhex(part) for part in v["frames"].split(" ") if part]
    text = b"".join(p.data for p in found if p.kind is streams.On.TEXT)
    assert text == bytes.fromhex(v["text"])
    assert decoder.dropped == number(v, "dropped")
    check(v, b"".join(map(streams.wire_encode, got)))


@pytest.mark.parametrize("v", of("judge"))
def test_judge(v: dict[str, str]) -> None:
    reference = frames.decode_hello(examples()["hello"], Kind.HELLO)
    assert reference is not None
    node = Node(
        Role(number(v, "acceptor_role")),
        number(v, "acceptor_stage"),
        number(v, "acceptor_stage_count"),
        reference.bundle if v["acceptor_bundle"] == "same" else bytes(32),
        serving=not number(v, "acceptor_refuse"),
        codecs=number(v, "acceptor_codecs"),
    )
    hello = frames.decode_hello(bytes.fromhex(v["hex"]), Kind.HELLO)
    assert hello is not None
    expected = None if v["status"] == "drop" else int(v["status"])
    assert judge_hello(node, hello) == expected
