"""Bluetooth controllers without hardware: Bumble's, on a link that takes its time.

Theory of operation. `TimedLink` is Bumble's link between controllers, with the packets of
connections handed to `link_layer`, which says when each arrives; a timer of the loop delivers it.
`TimedController` is Bumble's controller with what that needs and Bumble 0.0.236 leaves out: data
length and PHY updates, the granted interval at both ends, buffers that are free only when the peer
has acknowledged, scan responses, cancelled connects, and a supervision timeout when a peer's
host vanishes. Control PDUs and advertisements take no time. A host connects over Bumble's TCP HCI
(`HciPort`), or over any transport that Bumble has a name for (`attach`).

Times are modelled in microseconds and kept by the loop's clock: what arrives late because
the machine was busy counts in `late_us`. The seed fixes the random numbers, but not which packet
meets which, for the hosts above run in real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from typing import Any, Final

from bumble import controller as bumble_controller
from bumble import hci, ll
from bumble.core import BaseBumbleError
from bumble.device import Device
from bumble.link import LocalLink
from bumble.transport import open_transport
from bumble.transport.common import PacketParser
from bumble.transport.common import Transport as HciTransport

from host.link.ble import link_layer
from host.link.ble.link_layer import LE_1M, LE_2M, TO_CENTRAL, TO_PERIPHERAL, LinkLayer
from host.link.transport import TransportError

_log = logging.getLogger(__name__)
# What Bumble has to say is for those who add a handler to its logger, not for whoever reads
# standard error: a part of it calls logging's own functions, which make the root logger print.
logging.getLogger("bumble").addHandler(logging.NullHandler())
logging.getLogger("bumble").propagate = False

HCI_TIMEOUT_S: Final = 5.0
ACL_PACKETS: Final = (
    12  # Buffers for ACL data; an ESP32-S3's controller has 10 to 24 by its Kconfig.
)
_PHYS: Final = 0b11  # LE 1M and LE 2M.
_START, _CONTINUE = 2, 1  # Packet boundary flags of ACL data, controller to host.
_MAX_TIME_US: Final = {LE_1M: 2120, LE_2M: 1064}  # Of 251 bytes with a MIC: Vol 6 Part B 4.5.10.


@dataclasses.dataclass
class _AdvInd(ll.AdvInd):
    """ADV_IND, and what the advertiser would answer to a SCAN_REQ."""

    scan_response: bytes = b""


class _Advertiser(bumble_controller.LegacyAdvertiser):
    def _on_timer_fired(self) -> None:
        self.send_advertising_data()
        interval_us = self.advertising_interval_min * 625
        assert isinstance(self.controller, TimedController)
        interval_us += self.controller.link.layer.advertising_delay_us()
        loop = asyncio.get_running_loop()
        self.timer_handle = loop.call_later(interval_us / 1e6, self._on_timer_fired)

    def send_advertising_data(self) -> None:
        if not self.enabled:
            return
        controller = self.controller
        controller.send_advertising_pdu(
            _AdvInd(self.address, self.advertising_data, self.scan_response_data)
        )


@dataclasses.dataclass
class _Wire:
    """What is known of a connection beyond Bumble's own record of it."""

    model: link_layer.Connection
    interval: int  # Units of 1.25 ms.
    latency: int
    timeout: int  # Units of 10 ms.


@dataclasses.dataclass
class _Piece:
    """A data PDU on its way; `last` if it ends an HCI packet, whose buffer is free then."""

    sender: TimedController
    receiver: TimedController
    start: bool
    data: bytes
    last: bool


class TimedLink(LocalLink):
    """The air between `TimedController`s."""

    def __init__(self, loss: float = 0.0, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layer = LinkLayer(loss, seed)
        self.late_us = 0  # The worst.
        self.late_sum_us = self.deliveries = 0
        self.ended: list[_Wire] = []
        self._wires: dict[frozenset[hci.Address], _Wire] = {}
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def now_us() -> int:
        return round(asyncio.get_running_loop().time() * 1e6)

    def wires(self) -> list[_Wire]:
        """Every connection there was, those that ended first."""
        return [*self.ended, *self._wires.values()]

    def wire(self, connection: bumble_controller.Connection) -> _Wire | None:
        return self._wires.get(frozenset((connection.self_address, connection.peer_address)))

    def peer(self, connection: bumble_controller.Connection) -> TimedController | None:
        """The controller at the other end, if it is still there."""
        for other in self.controllers:
            back = other.le_connections.get(connection.self_address)
            if back is not None and back.self_address == connection.peer_address:
                assert isinstance(other, TimedController)
                return other
        return None

    def connected(self, pdu: ll.ConnectInd) -> None:
        """Both ends have the connection that the PDU opened."""
        key = frozenset((pdu.initiator_address, pdu.advertiser_address))
        ends = [self.find_le_controller(a) for a in (pdu.initiator_address, pdu.advertiser_address)]
        model = self.layer.connect(
            ends[0], ends[1], pdu.interval * link_layer.UNIT_US, self.now_us()
        )
        self._wires[key] = _Wire(model, pdu.interval, pdu.latency, pdu.timeout)

    def disconnected(self, connection: bumble_controller.Connection) -> None:
        """One end let go."""
        key = frozenset((connection.self_address, connection.peer_address))
        wire = self._wires.pop(key, None)
        if wire is not None:
            self.layer.disconnect(wire.model)
            self.ended.append(wire)

    def send_data(
        self,
        sender: TimedController,
        connection: bumble_controller.Connection,
        packet: hci.HCI_AclDataPacket,
    ) -> None:
        """Cut an HCI packet into data PDUs and queue them."""
        wire, receiver = self.wire(connection), self.peer(connection)
        if wire is None or receiver is None:
            sender.completed(connection.handle)  # Nobody hears it; the timeout will tell.
            return
        central = connection.role == hci.Role.CENTRAL
        direction = TO_PERIPHERAL if central else TO_CENTRAL
        size = wire.model.data_bytes[direction]
        for at in range(0, max(len(packet.data), 1), size):
            data = packet.data[at : at + size]
            start = at == 0 and packet.pb_flag != _CONTINUE
            last = at + size >= len(packet.data)
            piece = _Piece(sender, receiver, start, data, last)
            self.layer.send(wire.model, direction, len(data), piece, self.now_us())
        self._look()

    def _look(self) -> None:
        """Deliver what is due, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_us = self.now_us()
        for happening in self.layer.advance(now_us):
            piece = happening.token
            assert isinstance(piece, _Piece)
            if isinstance(happening, link_layer.Delivered):
                self._after(happening.at_us, self._deliver, happening.link, piece, happening.at_us)
            elif piece.last:
                self._after(happening.at_us, self._free, happening.link, piece)
        next_us = self.layer.next_us()
        if next_us is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(next_us / 1e6, self._look)

    @staticmethod
    def _after(at_us: int, call: Any, *args: Any) -> None:
        asyncio.get_running_loop().call_at(at_us / 1e6, call, *args)

    def _key(self, model: link_layer.Connection) -> frozenset[hci.Address] | None:
        return next((k for k, wire in self._wires.items() if wire.model is model), None)

    def _ends(
        self, model: link_layer.Connection, piece: _Piece
    ) -> tuple[bumble_controller.Connection, bumble_controller.Connection] | None:
        """Sender's and receiver's record of a connection that still stands."""
        key = self._key(model)
        if key is None:
            return None
        found = [
            c
            for end in (piece.sender, piece.receiver)
            for c in end.le_connections.values()
            if frozenset((c.self_address, c.peer_address)) == key
        ]
        return (found[0], found[1]) if len(found) == 2 else None

    def _deliver(self, model: link_layer.Connection, piece: _Piece, at_us: int) -> None:
        late_us = max(self.now_us() - at_us, 0)
        self.late_us = max(self.late_us, late_us)
        self.late_sum_us += late_us
        self.deliveries += 1
        ends = self._ends(model, piece)
        if ends is not None:
            flag = _START if piece.start else _CONTINUE
            piece.receiver.send_hci_packet(
                hci.HCI_AclDataPacket(ends[1].handle, flag, 0, len(piece.data), piece.data)
            )

    def _free(self, model: link_layer.Connection, piece: _Piece) -> None:
        ends = self._ends(model, piece)
        if ends is not None:
            piece.sender.completed(ends[0].handle)

    def send_advertising_pdu(
        self, sender_controller: bumble_controller.Controller, packet: ll.AdvertisingPdu
    ) -> None:
        """To everybody; advertisements may be lost, a CONNECT_IND not: it would be repeated."""
        loop = asyncio.get_running_loop()
        for other in list(self.controllers):
            if other is sender_controller:
                continue
            if isinstance(packet, ll.AdvInd) and self.layer.lost():
                continue
            loop.call_soon(other.on_ll_advertising_pdu, packet)

    def send_ll_control_pdu(
        self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu
    ) -> None:
        """A receiver that is gone hears nothing."""
        if self.find_le_controller(receiver_address) is not None:
            super().send_ll_control_pdu(sender_address, receiver_address, packet)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class TimedController(bumble_controller.Controller):
    """A controller on a `TimedLink`; `host` gets its HCI packets.

    It speaks LE 1M and 2M and data length extension, legacy advertising only, and has no classic
    Bluetooth.
    """

    link: TimedLink
    le_acl_data_packet_length = link_layer.MAX_DATA_BYTES
    total_num_le_acl_data_packets = ACL_PACKETS
    supported_max_tx_octets = supported_max_rx_octets = link_layer.MAX_DATA_BYTES
    supported_max_tx_time = supported_max_rx_time = _MAX_TIME_US[LE_1M]
    le_features = (
        hci.LeFeatureMask.LE_ENCRYPTION
        | hci.LeFeatureMask.EXTENDED_REJECT_INDICATION
        | hci.LeFeatureMask.PERIPHERAL_INITIATED_FEATURE_EXCHANGE
        | hci.LeFeatureMask.LE_PING
        | hci.LeFeatureMask.LE_DATA_PACKET_LENGTH_EXTENSION
        | hci.LeFeatureMask.LE_2M_PHY
        | hci.LeFeatureMask.CHANNEL_SELECTION_ALGORITHM_2
    )

    def __init__(self, name: str, link: TimedLink, public_address: hci.Address) -> None:
        super().__init__(name, link=link, public_address=public_address)
        self.le_legacy_advertiser = _Advertiser(self)
        self._incoming: ll.ConnectInd | None = None

    def power_off(self) -> None:
        """The host is gone: fall silent. Peers notice at their supervision timeout."""
        self.le_legacy_advertiser.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None
        loop = asyncio.get_running_loop()
        for connection in list(self.le_connections.values()):
            wire, peer = self.link.wire(connection), self.link.peer(connection)
            if wire is not None and peer is not None:
                loop.call_later(wire.timeout / 100, peer.lost, connection.self_address)
        for connection in list(self.le_connections.values()):
            self.link.disconnected(connection)
        self.le_connections.clear()

    def lost(self, address: hci.Address) -> None:
        """The supervision timeout of the connection with this peer is over."""
        connection = self.le_connections.get(address)
        if connection is not None and self.link.wire(connection) is None:
            self.on_le_disconnected(connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def completed(self, handle: int) -> None:
        """Tell the host that the buffer of one ACL packet is free."""
        self.send_hci_packet(hci.HCI_Number_Of_Completed_Packets_Event([handle], [1]))

    # Data

    def on_hci_acl_data_packet(self, packet: hci.HCI_AclDataPacket) -> None:
        connection = self.find_le_connection_by_handle(packet.connection_handle)
        if connection is not None:
            self.link.send_data(self, connection, packet)

    # Connections

    def on_le_connect_ind(self, packet: ll.ConnectInd) -> None:
        self._incoming = packet
        before = set(self.le_connections)
        super().on_le_connect_ind(packet)
        self._incoming = None
        if set(self.le_connections) != before:
            self.link.connected(packet)

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        incoming = self._incoming
        if isinstance(packet, hci.HCI_LE_Connection_Complete_Event) and incoming is not None:
            packet.connection_interval = incoming.interval
            packet.peripheral_latency = incoming.latency
            packet.supervision_timeout = incoming.timeout
        super().send_hci_packet(packet)

    def on_le_disconnected(self, connection: bumble_controller.Connection, reason: int) -> None:
        self.link.disconnected(connection)
        if self.le_connections.get(connection.peer_address) is connection:
            super().on_le_disconnected(connection, reason)

    def on_ll_control_pdu(self, sender_address: hci.Address, packet: ll.ControlPdu) -> None:
        if sender_address not in self.le_connections:
            return  # It let go at the same moment.
        super().on_ll_control_pdu(sender_address, packet)

    def on_hci_reset_command(self, command: hci.HCI_Reset_Command) -> Any:
        self.power_off()
        return super().on_hci_reset_command(command)

    def on_hci_le_create_connection_cancel_command(
        self, _command: hci.HCI_LE_Create_Connection_Cancel_Command
    ) -> hci.HCI_StatusReturnParameters:
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        cancelled = hci.HCI_LE_Connection_Complete_Event(
            status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
            connection_handle=0,
            role=hci.Role.CENTRAL,
            peer_address_type=pending.peer_address.address_type,
            peer_address=pending.peer_address,
            connection_interval=0,
            peripheral_latency=0,
            supervision_timeout=0,
            central_clock_accuracy=0,
        )
        asyncio.get_running_loop().call_soon(self.send_hci_packet, cancelled)
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    # Advertising

    def on_advertising_pdu(self, pdu: ll.AdvInd | ll.AdvExtInd) -> None:
        if self.le_scan_enable:
            kinds = hci.HCI_LE_Advertising_Report_Event.EventType
            self._report(kinds.ADV_IND, pdu.advertiser_address, pdu.data)
            if self.le_scan_type == 1 and isinstance(pdu, _AdvInd) and pdu.scan_response:
                self._report(kinds.SCAN_RSP, pdu.advertiser_address, pdu.scan_response)
        pending = self.pending_le_connection
        if pending is not None and pending.peer_address == pdu.advertiser_address:
            self.create_le_connection(pdu.advertiser_address)

    def _report(self, kind: int, address: hci.Address, data: bytes) -> None:
        report = hci.HCI_LE_Advertising_Report_Event.Report(
            event_type=kind,
            address_type=address.address_type,
            address=address,
            data=data,
            rssi=-50,
        )
        self.send_hci_packet(hci.HCI_LE_Advertising_Report_Event([report]))

    # Parameters

    def _both(
        self, handle: int
    ) -> tuple[bumble_controller.Connection, _Wire, TimedController, int] | None:
        """A connection, what is known of it, the peer, and this end's direction of sending."""
        connection = self.find_le_connection_by_handle(handle)
        if connection is None:
            return None
        wire, peer = self.link.wire(connection), self.link.peer(connection)
        if wire is None or peer is None:
            return None
        central = connection.role == hci.Role.CENTRAL
        return connection, wire, peer, TO_PERIPHERAL if central else TO_CENTRAL

    def on_hci_le_set_data_length_command(
        self, command: hci.HCI_LE_Set_Data_Length_Command
    ) -> hci.HCI_StatusAndConnectionHandleReturnParameters:
        found = self._both(command.connection_handle)
        wrong = not link_layer.MIN_DATA_BYTES <= command.tx_octets <= link_layer.MAX_DATA_BYTES
        status = hci.HCI_ErrorCode.SUCCESS
        if found is None:
            status = hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR
        elif wrong:
            status = hci.HCI_ErrorCode.INVALID_COMMAND_PARAMETERS_ERROR
        else:
            connection, wire, peer, direction = found
            # LL_LENGTH_REQ and LL_LENGTH_RSP: each end says what it will send and can receive.
            theirs = peer.suggested_max_tx_octets
            wire.model.data_bytes[direction] = min(command.tx_octets, peer.supported_max_rx_octets)
            wire.model.data_bytes[1 - direction] = min(theirs, self.supported_max_rx_octets)
            self._tell_length(connection, wire, direction)
            back = peer.le_connections[connection.self_address]
            peer._tell_length(back, wire, 1 - direction)
        return hci.HCI_StatusAndConnectionHandleReturnParameters(status, command.connection_handle)

    def _tell_length(
        self, connection: bumble_controller.Connection, wire: _Wire, direction: int
    ) -> None:
        sent, received = wire.model.data_bytes[direction], wire.model.data_bytes[1 - direction]
        time_us = [
            link_layer.air_time_us(n + 4, wire.model.phy[d])  # 4: room for a MIC, as in 4.5.10.
            for n, d in ((sent, direction), (received, 1 - direction))
        ]
        event = hci.HCI_LE_Data_Length_Change_Event(
            connection.handle, sent, time_us[0], received, time_us[1]
        )
        asyncio.get_running_loop().call_soon(self.send_hci_packet, event)

    def on_hci_le_read_phy_command(
        self, command: hci.HCI_LE_Read_PHY_Command
    ) -> hci.HCI_LE_Read_PHY_ReturnParameters:
        found = self._both(command.connection_handle)
        if found is None:
            status = hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR
            return hci.HCI_LE_Read_PHY_ReturnParameters(
                status, command.connection_handle, hci.Phy.LE_1M, hci.Phy.LE_1M
            )
        _, wire, _, direction = found
        return hci.HCI_LE_Read_PHY_ReturnParameters(
            hci.HCI_ErrorCode.SUCCESS,
            command.connection_handle,
            hci.Phy(wire.model.phy[direction]),
            hci.Phy(wire.model.phy[1 - direction]),
        )

    def on_hci_le_set_phy_command(self, command: hci.HCI_LE_Set_PHY_Command) -> None:
        found = self._both(command.connection_handle)
        if found is None:
            self._send_hci_command_status(
                hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR, command.op_code
            )
            return
        self._send_hci_command_status(hci.HCI_COMMAND_STATUS_PENDING, command.op_code)
        connection, wire, peer, direction = found
        for wanted, no_preference, way in (
            (command.tx_phys, command.all_phys & 1, direction),
            (command.rx_phys, command.all_phys & 2, 1 - direction),
        ):
            if not no_preference and wanted & _PHYS:
                wire.model.phy[way] = LE_2M if wanted & 0b10 else LE_1M
        self._tell_phy(connection, wire, direction)
        peer._tell_phy(peer.le_connections[connection.self_address], wire, 1 - direction)

    def _tell_phy(
        self, connection: bumble_controller.Connection, wire: _Wire, direction: int
    ) -> None:
        self.send_hci_packet(
            hci.HCI_LE_PHY_Update_Complete_Event(
                hci.HCI_ErrorCode.SUCCESS,
                connection.handle,
                wire.model.phy[direction],
                wire.model.phy[1 - direction],
            )
        )

    def on_hci_le_connection_update_command(
        self, command: hci.HCI_LE_Connection_Update_Command
    ) -> None:
        found = self._both(command.connection_handle)
        if found is not None:
            wire = found[1]
            wire.interval = command.connection_interval_max
            wire.latency, wire.timeout = command.max_latency, command.supervision_timeout
            interval_us = wire.interval * link_layer.UNIT_US
            self.link.layer.update(wire.model, interval_us, self.link.now_us())
        super().on_hci_le_connection_update_command(command)


class _Sink:
    """Where a controller's packets for a TCP host go."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def on_packet(self, packet: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(packet)


class HciPort:
    """Controllers for whoever connects: Bumble's TCP HCI, one controller a connection.

    `place` is the Bumble transport name that reaches it. An asynchronous context manager.
    """

    def __init__(self, link: TimedLink, host: str = "127.0.0.1", port: int = 0) -> None:
        self.link = link
        self._listen = (host, port)
        self._server: asyncio.Server | None = None
        self._count = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._attached: list[Any] = []

    @property
    def place(self) -> str:
        return f"tcp-client:{self._listen[0]}:{self._listen[1]}"

    def controller(self) -> TimedController:
        """A new controller with a public address of its own; the caller sets `host`."""
        self._count += 1
        address = hci.Address(f"02:54:53:00:{self._count >> 8:02X}:{self._count & 255:02X}/P")
        return TimedController(f"C{self._count}", self.link, address)

    async def __aenter__(self) -> HciPort:
        self._server = await asyncio.start_server(self._serve, *self._listen)
        self._listen = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        for transport, controller in self._attached:
            controller.power_off()
            await transport.close()
        self.link.close()
        await asyncio.sleep(0)

    async def attach(self, name: str) -> None:
        """Be the controller of a host that Bumble reaches by this name, such as `vhci`."""
        transport = await open_transport(name)
        controller = self.controller()
        controller.host = transport.sink
        transport.source.set_packet_sink(controller)
        self._attached.append((transport, controller))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        controller = self.controller()
        controller.host = _Sink(writer)
        parser = PacketParser(controller)
        self._writers.add(writer)
        try:
            while data := await reader.read(65536):
                parser.feed_data(data)
        except (OSError, asyncio.CancelledError):
            pass
        except Exception as broken:  # Whatever a host can send must not end the air.
            _log.warning("a host sent nonsense over HCI: %s", broken)
        finally:
            controller.power_off()
            self.link.remove_controller(controller)
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def open_hci(air: str) -> HciTransport:
    """The HCI at a Bumble transport name. Raises TransportError."""
    try:
        return await asyncio.wait_for(open_transport(air), HCI_TIMEOUT_S)
    except (BaseBumbleError, OSError, asyncio.TimeoutError, ValueError, ImportError) as error:
        raise TransportError(f"no Bluetooth controller at {air}: {error or 'no answer'}") from error


async def power_on(device: Device, air: str) -> None:
    """Reset the controller and set the address. Raises TransportError."""
    try:
        await asyncio.wait_for(device.power_on(), HCI_TIMEOUT_S)
    except (BaseBumbleError, hci.HCI_Error, OSError, asyncio.TimeoutError) as error:
        why = error or "it does not answer"
        raise TransportError(f"the Bluetooth controller at {air} does not start: {why}") from error
