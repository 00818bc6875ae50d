"""The link protocol of firmware/core/SPEC.md, for hosts, written from that file alone."""
