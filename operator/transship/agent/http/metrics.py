"""The agent's metrics for Prometheus, collected from the reports at every scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from transship.agentapi.containers import ContainerReports
from transship.agentapi.states import RecordState
from transship.api.node_agent import Capacity


class Metrics(Collector):
    """The collector, with a registry of its own: tests run several agents in one process."""

    def __init__(
        self, *, reports: Callable[[], ContainerReports], capacity: Callable[[], Capacity]
    ) -> None:
        self.registry = CollectorRegistry()
        self._reports = reports
        self._capacity = capacity
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        return []  # otherwise the registry collects at registration, before there are reports

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        reports = self._reports().containers
        yield self._states(Counter(report.record for report in reports))
        restarts = CounterMetricFamily(
            "transship_container_restarts",
            "Times that a container was started again on its node.",
            labels=["namespace", "name"],
        )
        ready = GaugeMetricFamily(
            "transship_container_ready",
            "Whether a container runs and its probes succeed.",
            labels=["namespace", "name"],
        )
        for report in reports:
            labels = [report.namespace, report.name]
            restarts.add_metric(labels, report.restarts)
            ready.add_metric(labels, float(report.ready))
        yield from (restarts, ready, *self._free())

    def _states(self, counts: Counter[RecordState]) -> Metric:
        family = GaugeMetricFamily(
            "transship_containers", "NodeContainers by the state of their record.", labels=["state"]
        )
        for state in RecordState:
            family.add_metric([state.value], counts[state])
        return family

    def _free(self) -> Iterator[Metric]:
        capacity = self._capacity()
        for resource, free in (
            ("memory", capacity.free_memory_bytes),
            ("disk", capacity.free_disk_bytes),
        ):
            yield GaugeMetricFamily(
                f"transship_node_free_{resource}_bytes", f"Free {resource} of the node.", value=free
            )
