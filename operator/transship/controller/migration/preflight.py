"""Preflight: the checks before a migration begins.

An ordered chain of small checks on what both agents have registered. The first obstacle is
reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from transship import strategies
from transship.api.base import IPFamily
from transship.api.container import Container
from transship.api.obstacle import Obstacle, obstacle
from transship.api.placement import Strategy
from transship.api.quantity import bytes_of
from transship.api.reasons import Reason
from transship.controller.addresses.allocation import family_of
from transship.controller.migration.cpu_features import usable_by_programs
from transship.controller.node.nodes import Node, lack, unusable
from transship.controller.node.requests import demand

# the oldest with which the page server over TLS was tested together with held restores
OLDEST_CRIU = (4, 2)
# the bundle, the log and the images of a small dump
FREE_DISK_FLOOR_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Facts:
    """The input of the checks: both nodes as registered, and the container that moves.

    uid: of its placement, whose own requests do not count on the target.
    """

    source: Node
    target: Node
    container: Container
    addresses: tuple[str, ...] = ()
    strategy: Strategy = Strategy.STOP_AND_COPY
    uid: str = ""


Check = Callable[[Facts], Obstacle | None]


def target_can_be_used(facts: Facts) -> Obstacle | None:
    return unusable(facts.target)


def machines_are_alike(facts: Facts) -> Obstacle | None:
    source, target = _machine(facts.source), _machine(facts.target)
    if not source or not target or source == target:
        return None
    return obstacle(
        Reason.ARCHITECTURE_DIFFERS,
        f"{facts.source.name} is {source}, {facts.target.name} is {target}",
    )


def cgroups_are_alike(facts: Facts) -> Obstacle | None:
    """A container sees its cgroups, and CRIU cannot restore the mounts of the other version."""
    source, target = facts.source.agent.status.features, facts.target.agent.status.features
    if not source.cgroup or not target.cgroup or source.cgroup == target.cgroup:
        return None
    return obstacle(
        Reason.CGROUP_VERSION_DIFFERS,
        f"{facts.source.name} has cgroup {source.cgroup}, {facts.target.name} cgroup"
        f" {target.cgroup}",
    )


def memory_can_be_given(facts: Facts) -> Obstacle | None:
    """With every live strategy the target's page server serves the restored processes' pages."""
    features = facts.target.agent.status.features
    # the agent reports both or neither
    if not features.cgroup or features.userfaultfd:
        return None
    return obstacle(
        Reason.KERNEL_FEATURE_MISSING,
        f"CRIU and kernel of {facts.target.name} cannot restore memory lazily (userfaultfd)",
        hint="use a kernel with CONFIG_USERFAULTFD there, or the strategy Cold",
    )


def criu_works(facts: Facts) -> Obstacle | None:
    for node in (facts.source, facts.target):
        test = node.agent.status.self_test
        if test is not None and not test.passed:
            return obstacle(
                Reason.SELF_TEST_FAILED, f"the self-test of node {node.name} failed: {test.message}"
            )
    return None


def criu_is_new_enough(facts: Facts) -> Obstacle | None:
    for node in (facts.source, facts.target):
        version = node.agent.status.versions.criu
        if version and _version(version) < OLDEST_CRIU:
            return obstacle(
                Reason.CRIU_TOO_OLD,
                f"node {node.name} has CRIU {version}; 4.2 is the oldest that is accepted",
                hint=f"upgrade CRIU on {node.name}",
            )
    return None


def criu_is_not_older_on_the_target(facts: Facts) -> Obstacle | None:
    source, target = facts.source.agent.status.versions, facts.target.agent.status.versions
    if not source.criu or not target.criu or _version(target.criu) >= _version(source.criu):
        return None
    return obstacle(
        Reason.CRIU_TOO_OLD,
        f"{facts.target.name} has CRIU {target.criu}, {facts.source.name} has {source.criu}",
    )


def cpu_features_suffice(facts: Facts) -> Obstacle | None:
    source, target = facts.source.agent.status.features, facts.target.agent.status.features
    if not target.cpu_flags:
        return None
    needed = usable_by_programs(source.cpu_flags, machine=source.machine)
    missing = sorted(needed - set(target.cpu_flags))
    if not missing:
        return None
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return obstacle(
        Reason.CPU_FEATURES_MISSING,
        f"the CPU of {facts.target.name} lacks {', '.join(missing[:8])}{more}, "
        f"which that of {facts.source.name} has",
    )


def requests_fit(facts: Facts) -> Obstacle | None:
    """Together with the requests of all placements that are on the target or move there."""
    return lack(facts.target, demand(facts.uid, facts.container.resources))


def memory_suffices(facts: Facts) -> Obstacle | None:
    """The requested memory must be free now. A container without a request always fits."""
    request = facts.container.resources.requests.memory
    capacity = facts.target.agent.status.capacity
    if request is None or capacity.free_memory_bytes == 0:
        return None
    needed = bytes_of(request)
    if needed <= capacity.free_memory_bytes:
        return None
    return obstacle(
        Reason.INSUFFICIENT_MEMORY,
        f"the container requests {_mebibytes(needed)} of memory, {facts.target.name} has "
        f"{_mebibytes(capacity.free_memory_bytes)} free",
    )


def disk_suffices(facts: Facts) -> Obstacle | None:
    capacity = facts.target.agent.status.capacity
    if capacity.disk_bytes == 0 or capacity.free_disk_bytes >= FREE_DISK_FLOOR_BYTES:
        return None
    return obstacle(
        Reason.INSUFFICIENT_DISK,
        f"{facts.target.name} has {_mebibytes(capacity.free_disk_bytes)} of disk space free",
    )


def packets_find_the_target(facts: Facts) -> Obstacle | None:
    """Packets are forwarded to an address of the target, of the same IP family."""
    status = facts.target.agent.status
    has = {_family(address) for address in (*status.addresses, status.address) if address}
    lacking = [address for address in facts.addresses if _family(address) not in has]
    if not has or not lacking:
        return None
    return obstacle(
        Reason.IP_FAMILY_MISSING,
        f"the container has the address {lacking[0]}, {facts.target.name} has no "
        f"{_family(lacking[0])} address in the network of the containers",
        hint=f"give the link between the nodes an {_family(lacking[0])} address on"
        f" {facts.target.name}, and restart its agent",
    )


EVERY_MOVE: Sequence[Check] = (
    target_can_be_used,
    packets_find_the_target,
    machines_are_alike,
    requests_fit,
    memory_suffices,
    disk_suffices,
)
LIVE_MOVES: Sequence[Check] = (
    criu_works,
    criu_is_new_enough,
    criu_is_not_older_on_the_target,
    cpu_features_suffice,
    cgroups_are_alike,
    memory_can_be_given,
)


def first_obstacle(facts: Facts) -> Obstacle | None:
    """The first obstacle to the move."""
    return next(iter(obstacles_of(facts)), None)


def obstacles_of(facts: Facts) -> tuple[Obstacle, ...]:
    """All obstacles to the move. A cold move needs nothing of CRIU and the CPU."""
    live = LIVE_MOVES if strategies.of(facts.strategy).needs_criu else ()
    checks = (*EVERY_MOVE, *live)
    return tuple(version for check in checks if (version := check(facts)) is not None)


def _machine(node: Node) -> str:
    return node.agent.status.features.machine


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _family(address: str) -> IPFamily:
    return family_of(ip_address(address))


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
