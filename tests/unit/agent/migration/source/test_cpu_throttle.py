"""On folders that look like cgroups, v1 and v2."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from transship.agent.migration.source import cpu_throttle as module
from transship.agent.migration.source.cpu_throttle import CpuThrottle
from transship.common.errors import NotFound
from transship.linux import cgroups
from transship.linux.cgroups import Hierarchies
from transship.linux.cpu_quota import Quota, of_cores
from transship.runtime.layout import Layout

ID = "c-1"


class Node:
    """A container that uses one and a half cores."""

    def __init__(self, root: Path, *, unified: bool) -> None:
        self.layout = Layout(runtime_dir=root / "run")
        self.layout.runtime_dir.mkdir()
        self.unified = unified
        self.group = root / "cgroup" / "transship" / ID
        self.group.mkdir(parents=True)
        base = root / "cgroup"
        names = [""] if unified else ["cpu", "cpuacct", "memory"]
        self.hierarchies = Hierarchies(dict.fromkeys(names, base))
        self.used = itertools.count(0, round(1.5e9 * module.USE_SECONDS))
        self.have("max 100000" if unified else "-1", period="100000")

    def have(self, quota: str, *, period: str) -> None:
        if self.unified:
            (self.group / "cpu.max").write_text(quota)
        else:
            (self.group / "cpu.cfs_quota_us").write_text(quota)
            (self.group / "cpu.cfs_period_us").write_text(period)

    @property
    def quota(self) -> tuple[str, ...]:
        if self.unified:
            return tuple((self.group / "cpu.max").read_text().split())
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        return tuple((self.group / name).read_text() for name in names)

    @property
    def cores(self) -> float:
        quota, period = self.quota
        return int(quota) / int(period)


@pytest.fixture(params=["v1", "v2"])
def node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node(tmp_path, unified=request.param == "v2")
    monkeypatch.setattr(cgroups, "detect", lambda: made.hierarchies)
    used = lambda *_: next(made.used)  # noqa: E731
    monkeypatch.setattr(cgroups, "cpu_nanoseconds", used)
    return made


@pytest.mark.parametrize("before", [("max", "100000"), ("250000", "50000")])
async def test_it_is_slowed_by_what_it_used_and_gets_back_exactly_what_it_had(
    node: Node, before: tuple[str, str]
) -> None:
    quota, period = before
    if node.unified:
        node.have(f"{quota} {period}", period=period)
    else:
        node.have("-1" if quota == "max" else quota, period=period)
    had = node.quota
    cpu_throttle = CpuThrottle(node.layout)

    await cpu_throttle.slow(ID, 0.5)
    assert node.cores == pytest.approx(0.75)
    await cpu_throttle.slow(ID, 0.1)
    assert node.cores == pytest.approx(0.15)
    cpu_throttle.release(ID)
    assert node.quota == had


@pytest.mark.parametrize(
    ("seen", "quota"), [(0.0, 2_000), (0.01, 2_000), (0.75, 50_000), (1.5, 1_000)]
)
async def test_it_is_never_left_more_than_its_own_limit(
    node: Node, seen: float, quota: int
) -> None:
    node.used = itertools.count(0, round(seen * 1e9 * module.USE_SECONDS))
    node.have(f"{quota} 100000" if node.unified else str(quota), period="100000")
    await CpuThrottle(node.layout).slow(ID, 0.7)
    assert node.cores == pytest.approx(0.7 * quota / 100_000, rel=0.01)


async def test_a_restarted_agent_releases_what_another_has_slowed(node: Node) -> None:
    had = node.quota
    await CpuThrottle(node.layout).slow(ID, 0.2)
    CpuThrottle(node.layout).release_all()
    assert node.quota == had
    CpuThrottle(node.layout).release_all()
    assert node.quota == had


async def test_a_container_that_is_gone_is_forgotten(node: Node) -> None:
    cpu_throttle = CpuThrottle(node.layout)
    await cpu_throttle.slow(ID, 0.2)
    for file in node.group.iterdir():
        file.unlink()
    node.group.rmdir()
    cpu_throttle.release(ID)
    with pytest.raises(NotFound):
        await cpu_throttle.slow(ID, 0.2)


def test_release_without_slowing_changes_nothing(node: Node) -> None:
    had = node.quota
    CpuThrottle(node.layout).release(ID)
    assert node.quota == had


@pytest.mark.parametrize("cores", [4.0, 1.0, 0.3, 0.05, 0.011, 0.002, 0.0005])
def test_a_quota_is_one_that_the_kernel_takes(cores: float) -> None:
    found: Quota = of_cores(cores)
    assert int(found.quota) >= 1000
    assert 1000 <= found.period <= 1_000_000
    assert found.cores == pytest.approx(max(cores, 0.001), rel=0.1)
