"""What esp_now offers: the peer table and its limits, keys, versions."""

from __future__ import annotations

import pytest

from host.link.espnow import frames
from host.link.espnow.frames import BROADCAST, DataLengthError, KeyLengthError
from host.link.espnow.radio import (
    ChannelError,
    EspNow,
    EspNowError,
    PeerExistsError,
    PeerNotFoundError,
    PeerTableFullError,
)
from partitioner.cost.wifi import RATES

A, B, C = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3))
PMK, LMK = b"primary-key-0123", b"local-key-012345"


def pair(lmk: bytes | None = None, **settings: int) -> tuple[EspNow, EspNow]:
    a, b = EspNow(A, pmk=PMK, **settings), EspNow(B, pmk=PMK, **settings)  # type: ignore[arg-type]
    a.add_peer(B, lmk=lmk)
    b.add_peer(A, lmk=lmk)
    return a, b


def test_a_packet_reaches_the_peer_with_its_sender() -> None:
    a, b = pair()
    frame, rate = a.frame_for(B, b"tensor")
    assert b.receive(frame) == (A, b"tensor")
    assert rate is RATES["1M"]


def test_a_peer_without_the_key_never_receives() -> None:
    a, b = pair(LMK)
    frame, _ = a.frame_for(B, b"tensor")
    assert b.receive(frame) == (A, b"tensor")
    stranger = EspNow(B, pmk=PMK)
    wrong = EspNow(B, pmk=b"another-key-0123")
    wrong.add_peer(A, lmk=LMK)
    for other in (stranger, wrong):
        assert other.receive(frame) is None
        assert other.counters.no_key == 1


def test_a_peer_with_a_key_takes_nothing_in_the_clear() -> None:
    _, b = pair(LMK)
    a = EspNow(A)
    a.add_peer(B)
    assert b.receive(a.frame_for(B, b"forged")[0]) is None
    assert b.counters.unencrypted == 1


def test_packet_numbers_and_random_values_never_repeat() -> None:
    a, _ = pair(LMK)
    made = [a.frame_for(B, b"x")[0] for _ in range(50)]
    assert len({frames.packet_number(f) for f in made}) == 50
    assert EspNow(A)._packet_number != EspNow(A)._packet_number, "nor after a restart"


def test_the_table_holds_20_peers_6_of_them_encrypted() -> None:
    radio = EspNow(A)
    others = [bytes([2, 0, 0, 0, 1, n]) for n in range(21)]
    for mac in others[:6]:
        radio.add_peer(mac, lmk=LMK)
    with pytest.raises(PeerTableFullError, match="at most 6"):
        radio.add_peer(others[6], lmk=LMK)
    for mac in others[6:20]:
        radio.add_peer(mac)
    with pytest.raises(PeerTableFullError, match="holds 20"):
        radio.add_peer(others[20])
    with pytest.raises(PeerTableFullError, match="at most 6"):
        radio.modify_peer(others[19], lmk=LMK)
    radio.modify_peer(others[0])
    radio.modify_peer(others[19], lmk=LMK)
    radio.delete_peer(others[1])
    radio.add_peer(others[20])
    assert len(radio.peers) == 20


def test_calls_that_a_chip_refuses_are_named() -> None:
    radio = EspNow(A, channel=6)
    radio.add_peer(B, channel=6)
    for error, call in (
        (PeerExistsError, lambda: radio.add_peer(B)),
        (PeerNotFoundError, lambda: radio.frame_for(C, b"x")),
        (PeerNotFoundError, lambda: radio.delete_peer(C)),
        (PeerNotFoundError, lambda: radio.modify_peer(C)),
        (ChannelError, lambda: radio.add_peer(C, channel=1)),
        (ChannelError, lambda: EspNow(A, channel=15)),
        (EspNowError, lambda: EspNow(A, version=3)),
        (EspNowError, lambda: radio.add_peer(b"short")),
        (EspNowError, lambda: radio.add_peer(BROADCAST, lmk=LMK)),
        (DataLengthError, lambda: radio.frame_for(B, bytes(251))),
        (KeyLengthError, lambda: radio.add_peer(C, lmk=b"short")),
        (KeyLengthError, lambda: EspNow(A, pmk=b"short")),
    ):
        with pytest.raises(error):
            call()


def test_a_version_1_radio_takes_short_packets_of_version_2_and_drops_long_ones() -> None:
    new, old = EspNow(A, version=2), EspNow(B, version=1)
    new.add_peer(B)
    assert old.receive(new.frame_for(B, bytes(250))[0]) == (A, bytes(250))
    assert old.receive(new.frame_for(B, bytes(251))[0]) is None
    assert old.counters.too_long == 1


def test_broadcast_is_for_everybody_and_never_encrypted() -> None:
    a, b = pair(LMK)
    a.add_peer(BROADCAST)
    frame, _ = a.frame_for(BROADCAST, b"hello")
    assert b.receive(frame) == (A, b"hello")
    assert EspNow(C).receive(frame) == (A, b"hello")


def test_each_peer_has_a_rate_of_its_own() -> None:
    radio = EspNow(A)
    radio.add_peer(B, rate_name="24M")
    radio.add_peer(C)
    assert radio.frame_for(B, b"x")[1] is RATES["24M"]
    assert radio.frame_for(C, b"x")[1].bps == 10**6


def test_keys_are_in_no_representation() -> None:
    a, _ = pair(LMK)
    key = a.peers[0].key
    assert key is not None
    for text in (repr(a), repr(a.peers), str(vars(a.peers[0].__class__))):
        assert key.hex() not in text
        assert repr(key) not in text
        assert LMK.decode() not in text
