"""Problems of the node itself, and which of them keep the node out of migrations.

`read` reads the node; the rest is pure. No problem stops a container.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from transship.agent.journal.store import Journal, Quarantined
from transship.api.conditions import Condition, condition
from transship.api.reasons import Reason

HEALTHY = "Healthy"
# the journal needs kilobytes, but containers' logs and layers grow
LEAST_FREE_BYTES = 64 << 20
# of the limit: a migration opens dozens
DESCRIPTORS_SHARE = 0.9
# time for a person to renew a certificate that nothing renews automatically
EXPIRY_NOTICE = timedelta(days=14)
# the agent could not promise anything, or no peer could connect to it
MIGRATION_BLOCKING = frozenset({Reason.JOURNAL_UNWRITABLE, Reason.CERTIFICATE_EXPIRED})


@dataclass(frozen=True)
class HealthReadings:
    """What the problems are judged from. certificate_ends: None if it cannot be read."""

    journal_failure: str = ""
    quarantined: Mapping[str, Quarantined] = field(default_factory=dict)
    free_disk_bytes: int = LEAST_FREE_BYTES
    open_descriptors: int = 0
    descriptor_limit: int = 1024
    certificate_ends: datetime | None = None


@dataclass(frozen=True)
class Problem:
    """One problem of the node."""

    reason: Reason
    message: str


def read(journal: Journal, *, state_dir: Path, certificate: Path) -> HealthReadings:
    """Read the node's state; blocks for a trial write to the journal's disk."""
    journal.try_disk()
    return HealthReadings(
        journal_failure=journal.failure,
        quarantined=journal.quarantined,
        free_disk_bytes=shutil.disk_usage(state_dir).free,
        open_descriptors=_open_descriptors(),
        descriptor_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        certificate_ends=_end_of(certificate),
    )


def problems_of(readings: HealthReadings, *, now: datetime) -> tuple[Problem, ...]:
    """All problems, the worst first."""
    found = []
    if readings.journal_failure:
        found.append(Problem(Reason.JOURNAL_UNWRITABLE, readings.journal_failure))
    found += _of_certificate(readings.certificate_ends, now=now)
    found += [
        Problem(Reason.QUARANTINED, f"container {container}: {record.reason}: {record.message}")
        for container, record in sorted(readings.quarantined.items())
    ]
    if readings.free_disk_bytes < LEAST_FREE_BYTES:
        free = f"{readings.free_disk_bytes >> 20} MiB are free for containers, images and journal"
        found.append(Problem(Reason.DISK_FULL, free))
    if readings.open_descriptors > readings.descriptor_limit * DESCRIPTORS_SHARE:
        used = f"{readings.open_descriptors} of {readings.descriptor_limit} files are open"
        found.append(Problem(Reason.DESCRIPTORS_SHORT, used))
    return tuple(found)


def healthy_condition(problems: tuple[Problem, ...], *, now: datetime) -> Condition:
    """The condition Healthy: its reason is that of the worst problem, its message names all."""
    if not problems:
        reason = Reason.NODE_HEALTHY
        return condition(HEALTHY, True, reason=reason, now=now, message=reason.meaning)
    message = "; ".join(f"{problem.reason}: {problem.message}" for problem in problems)[:4096]
    return condition(HEALTHY, False, reason=problems[0].reason, now=now, message=message)


def migration_blocker(problems: tuple[Problem, ...]) -> Problem | None:
    """The worst problem that keeps the node out of migrations, if there is one."""
    return next((problem for problem in problems if problem.reason in MIGRATION_BLOCKING), None)


def _of_certificate(ends: datetime | None, *, now: datetime) -> list[Problem]:
    if ends is None or now + EXPIRY_NOTICE < ends:
        return []
    if now < ends:
        return [Problem(Reason.CERTIFICATE_EXPIRES, f"it is valid until {ends:%Y-%m-%d %H:%M} UTC")]
    return [Problem(Reason.CERTIFICATE_EXPIRED, f"it was valid until {ends:%Y-%m-%d %H:%M} UTC")]


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - nobody needs the paths


def _end_of(certificate: Path) -> datetime | None:
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
