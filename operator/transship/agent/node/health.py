"""What is wrong with the node itself, and what of it keeps the node out of moves.

Pure but for look, which reads. Containers run on whatever is found here.
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
LEAST_FREE_BYTES = 64 << 20  # the journal needs kilobytes, a container's log and layer grow
DESCRIPTORS_SHARE = 0.9  # of the limit: a move opens dozens
EXPIRY_NOTICE = timedelta(days=14)  # time for a person to renew what nothing renews by itself
MIGRATION_BLOCKING = frozenset({Reason.JOURNAL_UNWRITABLE, Reason.CERTIFICATE_EXPIRED})


@dataclass(frozen=True)
class HealthReadings:
    """What was seen. certificate_ends: None where it cannot be read."""

    journal_failure: str = ""
    quarantined: Mapping[str, Quarantined] = field(default_factory=dict)
    free_disk_bytes: int = LEAST_FREE_BYTES
    open_descriptors: int = 0
    descriptor_limit: int = 1024
    certificate_ends: datetime | None = None


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    reason: Reason
    message: str


def read(journal: Journal, *, state_dir: Path, certificate: Path) -> HealthReadings:
    """Blocks for a write to the disk."""
    journal.try_disk()
    return HealthReadings(
        journal_failure=journal.failure,
        quarantined=journal.quarantined,
        free_disk_bytes=shutil.disk_usage(state_dir).free,
        open_descriptors=_open_descriptors(),
        descriptor_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        certificate_ends=_end_of(certificate),
    )


def problems(readings: HealthReadings, *, now: datetime) -> tuple[Problem, ...]:
    """Worst first."""
    found = []
    if readings.journal_failure:
        found.append(Problem(Reason.JOURNAL_UNWRITABLE, readings.journal_failure))
    found += _of_certificate(readings.certificate_ends, now=now)
    found += [
        Problem(Reason.QUARANTINED, f"container {container}: {each.reason}: {each.message}")
        for container, each in sorted(readings.quarantined.items())
    ]
    if readings.free_disk_bytes < LEAST_FREE_BYTES:
        left = f"{readings.free_disk_bytes >> 20} MiB are left for containers, images and promises"
        found.append(Problem(Reason.DISK_FULL, left))
    if readings.open_descriptors > readings.descriptor_limit * DESCRIPTORS_SHARE:
        used = f"{readings.open_descriptors} of {readings.descriptor_limit} files are open"
        found.append(Problem(Reason.DESCRIPTORS_SHORT, used))
    return tuple(found)


def healthy_condition(found: tuple[Problem, ...], *, now: datetime) -> Condition:
    """One condition for all of it: the reason is the worst one's, the message names each."""
    if not found:
        whole = Reason.NODE_HEALTHY
        return condition(HEALTHY, True, reason=whole, now=now, message=whole.meaning)
    message = "; ".join(f"{each.reason}: {each.message}" for each in found)[:4096]
    return condition(HEALTHY, False, reason=found[0].reason, now=now, message=message)


def migration_blocker(found: tuple[Problem, ...]) -> Problem | None:
    """What keeps the node out of moves: it could neither promise nor be spoken to."""
    return next((each for each in found if each.reason in MIGRATION_BLOCKING), None)


def _of_certificate(ends: datetime | None, *, now: datetime) -> list[Problem]:
    if ends is None or now + EXPIRY_NOTICE < ends:
        return []
    if now < ends:
        return [Problem(Reason.CERTIFICATE_EXPIRES, f"it is valid until {ends:%Y-%m-%d %H:%M} UTC")]
    return [Problem(Reason.CERTIFICATE_EXPIRED, f"it was valid until {ends:%Y-%m-%d %H:%M} UTC")]


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path for each would be for nothing


def _end_of(certificate: Path) -> datetime | None:
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
