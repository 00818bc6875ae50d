"""What a gateway has done, for Prometheus.

Label values are few by construction: transports, phases, the names of errors, and bundles, of
which the first MOST_BUNDLES have their own. No metric names a head; `/heads` (http.py) does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from host.gateway.results import Results
from host.gateway.schedule import Head
from host.gateway.service import Gateway, Outcome
from host.link.errors import code_name
from host.link.events import MessageSent

PREFIX: Final = "tinysplit_gateway_"
MOST_BUNDLES: Final = 32
BUCKETS: Final = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
PHASES: Final = ("receive", "decode", "queue", "invoke", "encode")


class Metrics(Collector):
    """Counts what happens at `gateway`; `registry` is what is to be shown."""

    def __init__(self, gateway: Gateway, results: Results | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._gateway = gateway
        self._results = results
        self._requests = Counter(
            f"{PREFIX}requests",
            "Requests by how they ended (ok, or the error's name) and whether kernels are exact.",
            ("bundle", "transport", "exact", "outcome"),
            registry=self.registry,
        )
        self._phases = Histogram(
            f"{PREFIX}phase_seconds",
            "Phases of requests that were answered, as in firmware/core/SPEC.md 6.2, measured.",
            ("bundle", "phase"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._latency = Histogram(
            f"{PREFIX}latency_seconds",
            "From a request's first fragment until its answer was handed to the link, measured.",
            ("bundle", "transport"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._delivery = Histogram(
            f"{PREFIX}delivery_seconds",
            "From handing an answer to the link until the head had it, measured.",
            ("transport",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._bundles: dict[str, str] = {}
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._observers: dict[tuple[str, str], tuple[Histogram, ...]] = {}
        ProcessCollector(registry=self.registry)
        self.registry.register(self)
        gateway.watches.append(self._outcome)
        gateway.answer_watches.append(self._delivered)

    def _bundle(self, label: str) -> str:
        if label not in self._bundles:
            self._bundles[label] = label if len(self._bundles) < MOST_BUNDLES else "other"
        return self._bundles[label]

    def _outcome(self, outcome: Outcome) -> None:
        head = outcome.head
        bundle, transport = self._bundle(head.served.label), head.listener.kind
        key = (bundle, transport, outcome.code)
        counter = self._counters.get(key)
        if counter is None:
            exact = "yes" if head.served.exact else "no"
            counter = self._requests.labels(bundle, transport, exact, code_name(outcome.code))
            self._counters[key] = counter
        counter.inc()
        done, event = outcome.done, outcome.event
        if done is None:
            return
        observers = self._observers.get((bundle, transport))
        if observers is None:
            observers = (
                *(self._phases.labels(bundle, phase) for phase in PHASES),
                self._latency.labels(bundle, transport),
            )
            self._observers[bundle, transport] = observers
        worked_us = done.decode_us + done.invoke_us
        durations_us = (
            event.complete_us - event.first_us,
            outcome.queued_us - event.complete_us + done.decode_us,
            done.started_us - outcome.queued_us,
            done.invoke_us,
            outcome.answered_us - done.started_us - worked_us,
            outcome.latency_us,
        )
        for observer, duration_us in zip(observers, durations_us, strict=True):
            observer.observe(duration_us / 1e6)

    def _delivered(self, head: Head, event: MessageSent) -> None:
        took_us = event.acked_us - event.submitted_us
        self._delivery.labels(head.listener.kind).observe(took_us / 1e6)

    def collect(self) -> Iterable[Metric]:
        """What is looked at when somebody asks."""
        gateway = self._gateway
        sessions = GaugeMetricFamily(
            f"{PREFIX}sessions", "Sessions that are up.", labels=["transport"]
        )
        frames = CounterMetricFamily(
            f"{PREFIX}data_frames", "DATA frames sent.", labels=["transport"]
        )
        again = CounterMetricFamily(
            f"{PREFIX}retransmitted_frames", "DATA frames sent again.", labels=["transport"]
        )
        dropped = CounterMetricFamily(
            f"{PREFIX}dropped_frames",
            "Frames that made no sense here: damaged, foreign, late.",
            labels=["transport"],
        )
        by_kind: dict[str, list[int]] = {}
        for listener in gateway.listeners:
            row = by_kind.setdefault(listener.kind, [0, 0, 0, 0])
            sending, receiving = listener.endpoint.sending, listener.endpoint.receiving
            row[0] += len(listener.heads)
            row[1] += sending.data_frames
            row[2] += sending.retransmitted
            row[3] += sending.dropped + receiving.dropped
        for kind, row in by_kind.items():
            sessions.add_metric([kind], row[0])
            for family, value in zip((frames, again, dropped), row[1:], strict=True):
                family.add_metric([kind], value)
        ended = CounterMetricFamily(
            f"{PREFIX}sessions_ended", "Sessions that are over, by why.", labels=["reason"]
        )
        for reason, count in gateway.lost_sessions.items():
            ended.add_metric([reason], count)
        yield from (sessions, frames, again, dropped, ended)
        yield _gauge("queue_depth", "Requests that wait for an engine.", len(gateway.schedule))
        yield _gauge("running", "Requests that engines have.", gateway.pool.running)
        yield _gauge("engines", "Engines that live.", len(gateway.pool.pids))
        yield _gauge(
            "engines_resident_bytes",
            "Resident memory of the engines.",
            _resident(gateway.pool.pids),
        )
        yield CounterMetricFamily(
            f"{PREFIX}engine_deaths",
            "Engines that ended too early.",
            gateway.pool.deaths,
        )
        yield CounterMetricFamily(
            f"{PREFIX}engine_hangs", "Engines that hung and were killed.", gateway.pool.hung
        )
        info = InfoMetricFamily(f"{PREFIX}bundle", "What is served.", labels=["bundle"])
        for served in gateway.served:
            if served.trial is not None:
                exact = "yes" if served.exact else "no"
                state = "current" if served.retired_us is None else "replaced"
                kernels = served.trial.kernels
                name = str(served.bundle.manifest.model["name"])
                info.add_metric(
                    [self._bundle(served.label)],
                    {"model": name, "kernels": kernels, "exact": exact, "state": state},
                )
        yield info
        if self._results is not None:
            for name, text in (("written", "Results kept."), ("dropped", "Results lost.")):
                family = CounterMetricFamily(f"{PREFIX}results_{name}", text, labels=["sink"])
                for sink in self._results.sinks:
                    family.add_metric([sink.kind], getattr(sink, name))
                yield family
            waiting = GaugeMetricFamily(
                f"{PREFIX}results_waiting", "Results not kept yet.", labels=["sink"]
            )
            for sink in self._results.sinks:
                waiting.add_metric([sink.kind], sink.waiting)
            yield waiting


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value)


def _resident(pids: list[int]) -> int:
    """Bytes, where /proc says it (Linux); 0 elsewhere."""
    total = 0
    for pid in pids:
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return total
