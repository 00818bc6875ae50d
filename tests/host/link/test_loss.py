"""How many DATA frames a lossy link costs. `python tests/host/link/test_loss.py` runs 1,000."""

import sys
from itertools import pairwise

import pytest
from simulation import MS, S, Simulation, network

from host.link.events import MessageSent, TensorReceived
from host.link.session import Profile

TENSOR = bytes(range(256)) * 21 + bytes(112)  # 5,488 bytes.
SHARES = (0.01, 0.05, 0.10, 0.20, 0.30)
MTUS = (250, 1452)


def sweep(loss: float, mtu: int, count: int, seed: int = 1) -> tuple[float, float, float]:
    """(DATA frames / (n / (1 - p)), median ms, 95th percentile ms) over `count` tensors."""
    sim = Simulation(seed, network(loss=loss, delay_us=2 * MS))
    head = sim.head(profile=Profile(mtu=mtu))
    sim.tail()
    head.connect(sim.now)
    sim.give_back("tail")
    times = []
    for inference in range(count):
        head.send_tensor(inference, [TENSOR], sim.now, deadline_us=sim.now + 60 * S)
        done = inference + 1
        assert sim.run(60 * S, lambda done=done: len(sim.of("head", MessageSent)) == done)
    received = sim.of("tail", TensorReceived)
    assert [event.inference_id for event in received] == list(range(count))
    assert all(bytes(event.tensors[0]) == TENSOR for event in received)
    sent = sim.of("head", MessageSent)
    times = sorted(event.acked_us - event.first_us for event in sent)
    frames = sum(event.frames for event in sent) / count
    bound = sent[0].fragments / (1 - loss)
    return frames / bound, times[count // 2] / 1000, times[count * 95 // 100] / 1000


@pytest.mark.parametrize("mtu", MTUS)
@pytest.mark.parametrize("loss", SHARES)
def test_frames_sent_stay_near_the_least_possible(loss: float, mtu: int) -> None:
    ratio, _, _ = sweep(loss, mtu, 300 if mtu == 1452 else 100)
    assert ratio <= 1.10


def test_more_loss_takes_longer() -> None:
    times = [sweep(loss, 250, 40)[1] for loss in (0.0, 0.1, 0.3)]
    assert all(a < b for a, b in pairwise(times))


if __name__ == "__main__":
    for size in MTUS:
        for share in SHARES:
            ratio, median, late = sweep(share, size, 1000)
            sys.stdout.write(
                f"mtu {size:5} loss {share:4.0%}: frames {ratio:.3f} x n/(1-p), "
                f"median {median:.1f} ms, p95 {late:.1f} ms\n"
            )
