"""The agent's metrics, for Prometheus: read from the reports at the moment they are asked for."""

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
    """One registry per agent: several live in one process in tests."""

    def __init__(
        self, *, reports: Callable[[], ContainerReports], capacity: Callable[[], Capacity]
    ) -> None:
        self.registry = CollectorRegistry()
        self._reports = reports
        self._capacity = capacity
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        return []  # else the registry collects once at registration, before there are reports

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        reports = self._reports().containers
        yield self._states(Counter(each.record for each in reports))
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
        for each in reports:
            restarts.add_metric([each.namespace, each.name], each.restarts)
            ready.add_metric([each.namespace, each.name], float(each.ready))
        yield from (restarts, ready, *self._room())

    def _states(self, counted: Counter[RecordState]) -> Metric:
        family = GaugeMetricFamily(
            "transship_containers", "NodeContainers by the state of their record.", labels=["state"]
        )
        for state in RecordState:
            family.add_metric([state.value], counted[state])
        return family

    def _room(self) -> Iterator[Metric]:
        capacity = self._capacity()
        for resource, free in (
            ("memory", capacity.free_memory_bytes),
            ("disk", capacity.free_disk_bytes),
        ):
            yield GaugeMetricFamily(
                f"transship_node_free_{resource}_bytes", f"Free {resource} of the node.", value=free
            )
