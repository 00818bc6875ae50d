"""The link protocol of firmware/core/SPEC.md, for hosts, written from that file alone.

Rooms, from the wire inwards: `frames` and `streams` code what travels, `messages` what it says,
`transfer` moves one direction of a session, `session` holds the tables and timers of an
agreement, `endpoint` is what a user drives, with the `events` it tells. None of them owns a
socket or reads a clock. `transport`, `udp` and `tcp` carry frames, `driver` runs an endpoint over
one of them under asyncio, and `impairment` is a bad network on purpose.
"""
