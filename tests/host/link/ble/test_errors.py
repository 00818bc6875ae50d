"""What goes wrong with a machine's Bluetooth, in one line each."""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path
from typing import Any

import pytest
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)

from host.boards.address import Address
from host.boards.virtual.radio import RadioSetup
from host.boards.virtual.radios import create_air, create_radio
from host.link.ble.gatt import WrongServiceError
from host.link.ble.transport import (
    BleClient,
    BluetoothOffError,
    NoBluetoothError,
    ble_error,
    scan,
)
from host.link.driver import LinkClient
from host.link.errors import MalformedError
from host.link.impairment import Impairment, ImpairmentError
from host.link.session import Node
from host.link.transport import (
    ConnectionLostError,
    NotAllowedError,
    TransportError,
    UnreachableError,
)

Reason = BleakBluetoothNotAvailableReason
CASES: list[tuple[BaseException, type[TransportError], str]] = [
    (
        BleakBluetoothNotAvailableError("", Reason.POWERED_OFF),
        BluetoothOffError,
        "Bluetooth is off",
    ),
    (
        BleakBluetoothNotAvailableError("", Reason.NO_BLUETOOTH),
        NoBluetoothError,
        "no Bluetooth adapter",
    ),
    (
        BleakBluetoothNotAvailableError("", Reason.NO_BLE_CENTRAL_ROLE),
        NoBluetoothError,
        "cannot be a BLE central",
    ),
    (
        BleakBluetoothNotAvailableError("", Reason.DENIED_BY_USER),
        NotAllowedError,
        "does not permit",
    ),
    (BleakBluetoothNotAvailableError("", Reason.UNKNOWN), NotAllowedError, "does not permit"),
    (BleakDBusError("org.bluez.Error.NotReady", []), BluetoothOffError, "Bluetooth is off"),
    (
        BleakDBusError("org.freedesktop.DBus.Error.AccessDenied", ["no"]),
        NotAllowedError,
        "does not permit",
    ),
    (
        BleakDBusError("org.freedesktop.DBus.Error.ServiceUnknown", []),
        NoBluetoothError,
        "bluetoothd does not run",
    ),
    (BleakDBusError("org.bluez.Error.NotPermitted", ["x"]), NotAllowedError, "pair with it"),
    (BleakDBusError("org.bluez.Error.Failed", ["le-abort"]), ConnectionLostError, "le-abort"),
    (BleakGATTProtocolError(0x0F), NotAllowedError, "pair with it"),
    (BleakGATTProtocolError(0x05), NotAllowedError, "pair with it"),
    (BleakGATTProtocolError(0x0E), ConnectionLostError, "Unlikely"),
    (BleakDeviceNotFoundError("x"), UnreachableError, "not in range any more"),
    (asyncio.TimeoutError(), UnreachableError, "did not answer in time"),
    (PermissionError(errno.EACCES, "denied"), NotAllowedError, "does not permit"),
    (FileNotFoundError(errno.ENOENT, "none"), NoBluetoothError, "D-Bus cannot be reached"),
    (MalformedError("cut short"), WrongServiceError, "another layout"),
    (BleakError("whatever"), TransportError, "ble x failed: whatever"),
]


@pytest.mark.parametrize(("cause", "kind", "text"), CASES, ids=lambda case: str(case)[:40])
def test_each_cause_has_its_name_and_one_line(
    cause: BaseException, kind: type[TransportError], text: str
) -> None:
    error = ble_error(cause, "ble x")
    assert type(error) is kind
    assert text in str(error)
    assert "\n" not in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="BlueZ is reached over D-Bus on Linux only")
@pytest.mark.parametrize("what", ["scan", "client"])
def test_a_machine_without_bluetooth_says_so(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")

    async def work() -> None:
        if what == "scan":
            await scan(0.1)
        else:
            async with LinkClient(BleClient("tail"), Node.host()):
                pass

    with pytest.raises(NoBluetoothError, match="no Bluetooth here"):
        asyncio.run(asyncio.wait_for(work(), 5))


SETUP = RadioSetup(Address("ble", "c0:00:00:00:00:01"), None, "tcp-client:127.0.0.1:1")


@pytest.mark.parametrize("make", ["air", "radio"])
def test_what_to_install_is_said(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "bumble"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bumble", None)
    monkeypatch.delitem(sys.modules, "host.boards.virtual.ble")
    for name in [n for n in sys.modules if n.startswith("host.link.ble.")]:
        monkeypatch.delitem(sys.modules, name)
    arguments: dict[str, tuple[Any, ...]] = {"air": (Impairment(), {}), "radio": (SETUP,)}
    create = {"air": create_air, "radio": create_radio}[make]
    with pytest.raises(TransportError, match=r"pip install 'tinysplit\[air\]'"):
        create("ble", *arguments[make])


@pytest.mark.parametrize(
    "impairment", [Impairment(delay_ms=1), Impairment(corrupt=0.1), Impairment(rate_bps=9)]
)
def test_what_a_link_layer_does_not_do_is_refused(impairment: Impairment) -> None:
    with pytest.raises(ImpairmentError, match="only --loss and --seed"):
        create_air("ble", impairment, {})
