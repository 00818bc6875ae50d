"""Codec 1 between two ends of the link: what is agreed, and what travels."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from core_end import RESULT, CoreEnd, CoreEvent
from simulation import BUNDLE, MS, S, Simulation

from host.link.driver import LinkClient, LinkServer, Request
from host.link.errors import (
    CodecMismatchError,
    ErrorCode,
    InvalidError,
    MalformedError,
    TooLargeError,
)
from host.link.events import FailureReceived, MessageSent, ResultReceived, TensorReceived
from host.link.messages import (
    EVERY_CODEC,
    RAW_ONLY,
    MessageKind,
    Phase,
    decode_boundary,
    encode_boundary,
    encode_tensors,
)
from host.link.session import Node, Profile, Role
from host.link.udp import UdpClient, UdpServer
from partitioner import codec

VALUES = np.random.default_rng(5).normal(0, 20, 2400).clip(0, 127).astype(np.int8) - np.int8(64)
TENSOR = VALUES.tobytes()
IMAGE = VALUES.reshape(1, 10, 10, 24)


def opened(head: int, tail: int) -> Simulation:
    sim = Simulation()
    initiator = sim.head(node=Node.head(BUNDLE, codecs=head))
    sim.tail(node=Node.tail(BUNDLE, codecs=tail))
    sim.serve()
    sim.give_back("head")
    initiator.connect(sim.now)
    sim.run(100 * MS)
    return sim


@pytest.mark.parametrize("head", [RAW_ONLY, EVERY_CODEC])
@pytest.mark.parametrize("tail", [RAW_ONLY, EVERY_CODEC])
def test_the_codec_is_what_both_speak(head: int, tail: int) -> None:
    sim = opened(head, tail)
    sim.ends["head"].send_tensor(7, [TENSOR, b"skip"], sim.now)  # type: ignore[attr-defined]
    assert sim.run(S, lambda: bool(sim.of("head", ResultReceived) and sim.of("head", MessageSent)))
    (got,) = sim.of("tail", TensorReceived)
    (sent,) = sim.of("head", MessageSent)
    assert got.codec == (1 if head & tail & 2 else 0)
    assert (sent.frame_bytes < len(TENSOR)) == bool(got.codec)
    (result,) = sim.of("head", ResultReceived)
    assert [bytes(t) for t in result.tensors] == [TENSOR[::-1], b"piks"]


def test_what_was_sent_before_the_session_is_up_goes_raw() -> None:
    sim = Simulation()
    head = sim.head(node=Node.head(BUNDLE, codecs=EVERY_CODEC))
    sim.tail(node=Node.tail(BUNDLE, codecs=EVERY_CODEC))
    sim.serve()
    head.connect(sim.now)
    head.send_tensor(1, [TENSOR], sim.now)
    assert sim.run(S, lambda: bool(sim.of("head", ResultReceived)))
    head.send_tensor(2, [TENSOR], sim.now)
    assert sim.run(S, lambda: len(sim.of("head", ResultReceived)) == 2)
    assert [event.codec for event in sim.of("tail", TensorReceived)] == [0, 1]


def test_a_codec_that_was_not_agreed_is_answered() -> None:
    sim = opened(EVERY_CODEC, RAW_ONLY)
    head = sim.ends["head"]
    body = encode_tensors(3, encode_boundary([TENSOR], 1), stage=0, codec=1)
    head._send(MessageKind.TENSOR, body, sim.now, None)  # type: ignore[attr-defined]
    assert sim.run(S, lambda: bool(sim.of("head", FailureReceived)))
    assert isinstance(sim.of("head", FailureReceived)[0].error, CodecMismatchError)


def test_neighbours_come_from_the_shape_of_what_is_sent() -> None:
    flat, shaped = encode_boundary([TENSOR], 1)[0], encode_boundary([IMAGE.data], 1)[0]
    assert flat == codec.encode(TENSOR)
    assert shaped == codec.encode(TENSOR, codec.near_of(IMAGE.shape))
    for form in (flat, shaped):
        assert bytes(decode_boundary([memoryview(form)], 1, 2400)[0]) == TENSOR


def test_the_limit_is_for_all_tensors_together() -> None:
    forms = [memoryview(form) for form in encode_boundary([TENSOR, TENSOR], 1)]
    assert len(decode_boundary(forms, 1, 4800)) == 2
    with pytest.raises(TooLargeError):
        decode_boundary(forms, 1, 4799)
    with pytest.raises(MalformedError):
        decode_boundary([memoryview(b"\3")], 1, 100)


def test_other_codecs_cannot_be_offered() -> None:
    with pytest.raises(InvalidError):
        Node(Role.HEAD, 0, 2, BUNDLE, codecs=5)
    with pytest.raises(InvalidError):
        Node(Role.HEAD, 0, 2, BUNDLE, codecs=2)


@pytest.mark.parametrize("slow", [False, True])
def test_client_and_server_time_their_coding(slow: bool) -> None:
    profile = Profile(max_message=3000)

    async def main() -> None:
        seen: list[bytes] = []

        def handle(request: Request) -> list[bytes]:
            seen.append(bytes(request.tensors[0]))
            return [b"done"]

        async def handle_in_loop(request: Request) -> list[bytes]:
            return handle(request)

        node = Node.tail(BUNDLE, codecs=EVERY_CODEC)
        server = LinkServer(
            UdpServer("127.0.0.1", 0), node, handle_in_loop if slow else handle, profile=profile
        )
        async with server:
            client = LinkClient(UdpClient(*server.address), Node.head(BUNDLE, codecs=EVERY_CODEC))
            async with client:
                result = await client.infer(1, [TENSOR], 5)
                assert [bytes(t) for t in result.tensors] == [b"done"]
                spent = {(p.stage, p.phase): p.duration_us for p in result.phases}
                # Coding takes Python more than a tenth of a microsecond for a byte anywhere.
                assert spent[0, Phase.ENCODE] > len(TENSOR) / 10
                assert spent[1, Phase.DECODE] > len(TENSOR) / 10
                assert result.frame_bytes < len(TENSOR)
                with pytest.raises(TooLargeError):  # Decoded it is longer than a message may be.
                    await client.infer(2, [bytes(4000)], 5)
                assert (await client.infer(3, [TENSOR], 5)).tensors
        assert seen == [TENSOR, TENSOR]

    asyncio.run(main())


def test_a_core_that_sends_rubbish_is_answered_by_name() -> None:
    """Not from a node: a body made by hand, to the core and to the host."""
    forms = {
        b"\3": ErrorCode.MALFORMED,
        b"\1\x80\x40\0\0\x11\x22": ErrorCode.MALFORMED,
        b"\1\x80\xff\xff\xff" + bytes(8): ErrorCode.TOO_LARGE,
    }
    for form, wanted in forms.items():
        sim = Simulation()
        head = sim.head(node=Node.head(BUNDLE, codecs=EVERY_CODEC))
        core = CoreEnd(head=False, peer="head", mtu=250, seed=1, now=sim.now, coding=True)
        sim.add("tail", core)  # type: ignore[arg-type]
        head.connect(sim.now)
        sim.run(100 * MS)
        body = encode_tensors(3, [form], stage=0, codec=1)
        head._send(MessageKind.TENSOR, body, sim.now, None)
        assert sim.run(S, lambda sim=sim: bool(sim.of("head", FailureReceived)))
        assert sim.of("head", FailureReceived)[0].error.code == wanted
        assert not [e for e in sim.of("tail", CoreEvent) if e.type == RESULT]
