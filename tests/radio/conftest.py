"""The tests in guest/ run in the guest only: `make test-radio`."""

collect_ignore = ["guest"]
