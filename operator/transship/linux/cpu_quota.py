"""Reads and writes the CPU quota of a cgroup, v1 and v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import NotFound, TransshipError
from transship.linux import cgroups

PERIOD_MICROSECONDS = 20_000
"""Short enough that a throttled process does not seem to stall."""
LEAST_QUOTA_MICROSECONDS = 1000
"""The kernel accepts no less."""
UNLIMITED = "max"


@dataclass(frozen=True)
class Quota:
    """Microseconds of CPU time per period, as in cpu.max: the quota is "max" without a limit."""

    quota: str
    period: int

    @property
    def cores(self) -> float | None:
        return None if self.quota == UNLIMITED else int(self.quota) / self.period


def of_cores(cores: float) -> Quota:
    """Return the quota for a number of cores, as near as the kernel allows."""
    quota = round(cores * PERIOD_MICROSECONDS)
    if quota >= LEAST_QUOTA_MICROSECONDS:
        return Quota(str(quota), PERIOD_MICROSECONDS)
    period = round(LEAST_QUOTA_MICROSECONDS / max(cores, 1e-3))
    return Quota(str(LEAST_QUOTA_MICROSECONDS), min(period, 1_000_000))


def read(cgroup: str) -> Quota:
    """Read the quota. Raises NotFound when there is no such cgroup, or no CPU controller."""
    path = _path(cgroup)
    try:
        if path.unified:
            quota, period = (path.directory / "cpu.max").read_text().split()
            return Quota(quota, int(period))
        raw = int((path.directory / "cpu.cfs_quota_us").read_text())
        period = (path.directory / "cpu.cfs_period_us").read_text()
    except OSError as e:
        raise NotFound(f"reading the CPU quota of {cgroup}: {e.strerror}") from e
    return Quota(UNLIMITED if raw < 0 else str(raw), int(period))


def write(cgroup: str, wanted: Quota) -> None:
    """Write a quota. Raises NotFound without such a cgroup, TransshipError if it is refused."""
    path = _path(cgroup)
    try:
        if path.unified:
            (path.directory / "cpu.max").write_text(f"{wanted.quota} {wanted.period}")
            return
        # v1 has two files, and no combination may exceed the parent's quota: remove the limit first
        (path.directory / "cpu.cfs_quota_us").write_text("-1")
        (path.directory / "cpu.cfs_period_us").write_text(str(wanted.period))
        if wanted.quota != UNLIMITED:
            (path.directory / "cpu.cfs_quota_us").write_text(wanted.quota)
    except FileNotFoundError as e:
        raise NotFound(f"setting the CPU quota of {cgroup}: it is gone") from e
    except OSError as e:
        raise TransshipError(f"setting the CPU quota of {cgroup}: {e.strerror}") from e


@dataclass(frozen=True)
class _Path:
    directory: Path
    unified: bool


def _path(cgroup: str) -> _Path:
    hierarchies = cgroups.detect()
    try:
        directory = hierarchies.path(cgroup, controller="cpu")
    except KeyError as e:
        raise NotFound("the node has no CPU controller") from e
    return _Path(directory, hierarchies.unified)
