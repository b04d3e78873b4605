"""Metrics of the operator, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from transship.api.migration import ContainerMigration, MigrationStatus

# from a tenth of what a good handover takes to what a client takes for an outage
BLACKOUT_BUCKETS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
TOTAL_BUCKETS_SECONDS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """One registry per operator, so that tests can have their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._migrations = Counter(
            "transship_migrations",
            "Finished migrations",
            ["result", "reason", "strategy"],
            registry=self.registry,
        )
        self._running = Gauge(
            "transship_migrations_running", "Migrations under way", registry=self.registry
        )
        self._blackout = Histogram(
            "transship_migration_blackout_seconds",
            "Time in which no copy of the container ran",
            ["strategy"],
            buckets=BLACKOUT_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._total = Histogram(
            "transship_migration_seconds",
            "Time from the start of a successful migration to its end",
            ["strategy"],
            buckets=TOTAL_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._bytes = Counter(
            "transship_migration_bytes", "Bytes that sources sent", registry=self.registry
        )
        self._failed_passes = Counter(
            "transship_reconcile_errors",
            "Passes that could not take their step",
            ["kind", "reason"],
            registry=self.registry,
        )

    def migration_began(self) -> None:
        self._running.inc()

    def migration_left(self) -> None:
        """Its loop is over, for whatever reason."""
        self._running.dec()

    def migration_finished(self, migration: ContainerMigration, status: MigrationStatus) -> None:
        strategy = status.strategy or migration.spec.settings.strategy
        self._migrations.labels(status.phase or "", status.reason or "", strategy).inc()
        if status.blackout_milliseconds is not None:
            self._blackout.labels(strategy).observe(status.blackout_milliseconds / 1000)
        if status.total_milliseconds is not None:
            self._total.labels(strategy).observe(status.total_milliseconds / 1000)
        self._bytes.inc(status.bytes or 0)

    def pass_failed(self, kind: str, reason: str) -> None:
        self._failed_passes.labels(kind, reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
