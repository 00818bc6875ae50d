"""Addresses of links, as settings and command lines write them."""

from __future__ import annotations

import pytest

from host.boards import address
from host.boards.address import AddressError
from host.boards.control import ControlError, check_settings


@pytest.mark.parametrize(
    "text", ["espnow://02:00:00:00:0a:01", "ble://02:00:00:00:0a:01", "ble://tail-1"]
)
def test_addresses_of_radios_are_read_and_written_alike(text: str) -> None:
    assert str(address.parse(text)) == text
    assert check_settings({"listen": text}) == {"listen": text}


def test_a_mac_address_is_six_bytes_whatever_its_case() -> None:
    assert address.parse("espnow://02:00:00:00:0A:FF").mac == bytes.fromhex("020000000aff")
    assert address.parse("ble://tail-1").mac is None


@pytest.mark.parametrize("text", ["espnow://tail", "espnow://02:00", "ble://", "ble://a b", "x://"])
def test_what_is_no_radio_address_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(AddressError, match=r"is no .*address"):
        address.parse(text)
    with pytest.raises(ControlError):
        check_settings({"listen": text})
