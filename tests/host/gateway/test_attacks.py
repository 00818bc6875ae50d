"""Every attack at once on one gateway, and the good heads get every answer.

How long they wait meanwhile is measured by `make gateway-attacks`: it needs a quiet machine.
"""

import shutil
from pathlib import Path

import pytest

from partitioner.bundle import Bundle
from tests.host.gateway.attacks import ATTACKS
from tests.host.gateway.under_attack import MEMORY_MB, Siege, build

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

# That it took place. Whether its own HELLOs got through depends on the other floods.
DID = {
    "udp_garbage": "datagrams",
    "udp_mutated": "datagrams",
    "hello_flood": "hellos",
    "session_flood": "tried",
    "tcp_garbage": "connects",
    "tcp_connects": "connects",
    "tcp_resets": "connects",
    "half_open": "connections",
    "slow_loris": "bytes",
}


def test_every_attack_at_once(pair: Bundle, pair_folder: Path, tmp_path: Path) -> None:
    with Siege(build(tmp_path), pair, pair_folder, tmp_path, 20) as siege:
        assert [heads.opened["up"] for heads in siege.good] == [10, 10]
        with siege.attack(*ATTACKS, share=0.25) as told:
            reports = siege.block(3.0, 100.0, seed=1)
            late = [siege.heads(kind, 2).closed(0.3, warm_s=0) for kind in ("udp", "tcp")]
            grown = siege.rss_mb() - siege.rss_before
        for report in (*reports, *late):
            assert (report["wrong"], report["errors"]) == (0, {})
            assert report["exact"] > 0
        assert min(report["exact"] for report in reports) > 100
        assert grown < MEMORY_MB
        assert set(told) == set(ATTACKS)
        for kind, counted in DID.items():
            assert told[kind][counted] > 0, kind
        assert siege.gateway.stop() == (0, "")
