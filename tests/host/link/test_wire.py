"""A serial wire with frames and text on it: what SPEC 9.1 promises, whatever bytes are lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from host.link.streams import WIRE_SYNC, On, WireDecoder, wire_encode

MTU = 100
FRAMES = st.binary(min_size=1, max_size=MTU)
TEXT = st.binary(max_size=60).map(lambda b: b.replace(b"\0", b"?"))


def feed(decoder: WireDecoder, data: bytes, step: int) -> tuple[list[bytes], bytes]:
    """The frames and the text that come out, fed in pieces."""
    found = [p for at in range(0, len(data), step) for p in decoder.feed(data[at : at + step])]
    frames = [p.data for p in found if p.kind is On.FRAME]
    return frames, b"".join(p.data for p in found if p.kind is On.TEXT)


@given(st.lists(st.tuples(FRAMES, TEXT), max_size=12), st.integers(1, 40))
def test_any_interleaving_comes_apart_exactly(parts: list[tuple[bytes, bytes]], step: int) -> None:
    data = b"".join(wire_encode(frame) + text for frame, text in parts)
    frames, text = feed(WireDecoder(MTU), data, step)
    assert frames == [frame for frame, _ in parts]
    assert text == b"".join(text for _, text in parts)


@given(
    st.lists(st.tuples(FRAMES, TEXT), min_size=1, max_size=8),
    st.lists(
        st.tuples(st.integers(0), st.sampled_from(["lose", "flip", "add"]), st.integers(0, 255))
    ),
    FRAMES,
    st.integers(1, 40),
)
def test_frames_that_come_out_went_in_and_the_next_whole_one_is_read(
    parts: list[tuple[bytes, bytes]], damage: list[tuple[int, str, int]], last: bytes, step: int
) -> None:
    data = bytearray(b"".join(wire_encode(frame) + text for frame, text in parts))
    for place, how, value in damage[:10]:
        at = place % max(len(data), 1)
        if how == "add" or not data:
            data.insert(at, value)
        elif how == "flip":
            data[at] ^= 1 << value % 8
        else:
            del data[at]
    # A lost zero may cost the frame behind it, too, but no second one.
    frames, _ = feed(WireDecoder(MTU), bytes(data) + 2 * wire_encode(last), step)
    assert frames[-1] == last
    assert all(frame in [last, *(f for f, _ in parts)] for frame in frames)


@given(st.binary(max_size=300), TEXT, st.integers(1, 40))
def test_a_line_behind_sync_is_read_whatever_came_before(
    before: bytes, text: bytes, step: int
) -> None:
    line = text.replace(b"\n", b" ") + b"\n"
    _, got = feed(WireDecoder(MTU), before + WIRE_SYNC + b"\n" + line, step)
    assert got.endswith(b"\n" + line)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_bytes_are_safe_and_no_text_is_lost(parts: list[bytes]) -> None:
    decoder = WireDecoder(MTU)
    frames: list[bytes] = []
    text = b""
    for part in parts:
        more, said = feed(decoder, part, 1 << 20)
        frames += more
        text += said
        assert decoder._held is None or len(decoder._held) <= MTU + 4
    assert all(1 <= len(frame) <= MTU for frame in frames)
    if not frames:
        held = b"" if decoder._held is None else bytes(decoder._held)
        sent = b"".join(parts).replace(WIRE_SYNC, b"")
        assert (text + held).replace(b"\0", b"") == sent.replace(b"\0", b"")
