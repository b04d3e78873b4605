"""What speaks against a move before it begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fakes.resources import NOW, node_agent
from transship.api.container import Container
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.controller.migration.preflight import Facts, first_obstacle
from transship.controller.node.nodes import Node
from transship.controller.node.requests import Demand

FAILED_TEST = {"selfTest": {"passed": False, "time": NOW.isoformat(), "message": "no ptrace"}}


def kernel(cgroup: str, *, userfaultfd: bool = True) -> dict[str, Any]:
    return {"features": {"cgroup": cgroup, "userfaultfd": userfaultfd}}


def facts(
    source: dict[str, Any] | None = None,
    target: dict[str, Any] | None = None,
    *,
    memory: str | None = None,
    cpu: str | None = None,
    addresses: tuple[str, ...] = (),
    strategy: Strategy = Strategy.STOP_AND_COPY,
) -> Facts:
    requests = {"requests": {"memory": memory, "cpu": cpu}}
    return Facts(
        source=Node(node_agent("node-a", **(source or {}))),
        target=Node(node_agent("node-b", **(target or {}))),
        container=Container.model_validate({"image": "web", "resources": requests}),
        addresses=addresses,
        strategy=strategy,
    )


def test_a_target_without_an_address_of_an_ip_family_is_refused() -> None:
    both = ("10.0.128.1", "fd00::1")
    found = first_obstacle(facts(addresses=both))
    assert found is not None
    assert found.reason == Reason.IP_FAMILY_MISSING
    assert "node-b has no IPv6 address" in found.message
    assert (
        first_obstacle(facts(target={"addresses": ["10.0.0.12", "fd00:1::12"]}, addresses=both))
        is None
    )
    assert first_obstacle(facts(addresses=both[:1])) is None


def test_two_like_nodes_object_to_nothing() -> None:
    assert first_obstacle(facts()) is None


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ({}, {"unschedulable": True}, Reason.NODE_UNSCHEDULABLE),
        ({}, {"ready": False}, Reason.NODE_NOT_READY),
        ({}, {"features": {"machine": "aarch64"}}, Reason.ARCHITECTURE_DIFFERS),
        ({}, FAILED_TEST, Reason.SELF_TEST_FAILED),
        (FAILED_TEST, {}, Reason.SELF_TEST_FAILED),
        ({"versions": {"criu": "4.1"}}, {}, Reason.CRIU_TOO_OLD),
        ({"versions": {"criu": "4.3"}}, {"versions": {"criu": "4.2.1"}}, Reason.CRIU_TOO_OLD),
        (
            {},
            {"features": {"machine": "x86_64", "cpuFlags": ["sse2"]}},
            Reason.CPU_FEATURES_MISSING,
        ),
        ({}, {"capacity": {"diskBytes": 10**9, "freeDiskBytes": 10**6}}, Reason.INSUFFICIENT_DISK),
        (kernel("v1"), kernel("v2"), Reason.CGROUP_VERSION_DIFFERS),
        ({}, kernel("v2", userfaultfd=False), Reason.KERNEL_FEATURE_MISSING),
    ],
)
def test_a_difference_that_a_restore_would_not_survive_is_named(
    source: dict[str, Any], target: dict[str, Any], reason: Reason
) -> None:
    found = first_obstacle(facts(source, target))
    assert found is not None
    assert found.reason == reason
    assert "node-" in found.message


def test_a_target_may_have_more_than_the_source() -> None:
    richer = {
        "versions": {"criu": "4.10"},
        "features": {"machine": "x86_64", "cpuFlags": ["sse2", "avx2", "avx512f"]},
    }
    assert first_obstacle(facts(target=richer)) is None


def test_the_missing_cpu_features_are_named() -> None:
    found = first_obstacle(facts(target={"features": {"machine": "x86_64", "cpuFlags": ["sse2"]}}))
    assert found is not None
    assert "avx2" in found.message


def cpu(words: str, machine: str = "x86_64") -> dict[str, Any]:
    return {"features": {"machine": machine, "cpuFlags": words.split()}}


def test_what_only_kernel_and_firmware_use_may_differ() -> None:
    kernels = "pti ibrs ibpb stibp ssbd ibrs_enhanced md_clear flush_l1d arch_capabilities"
    firmware = "vmx ept vpid hwp hwp_epp dtherm pln pts ida arat x2apic rdt_a"
    source = cpu(f"sse2 avx2 {kernels} {firmware} user_shstk split_lock_detect umip smap")
    assert first_obstacle(facts(source, cpu("sse2 avx2 svm"))) is None


def test_an_instruction_that_the_target_lacks_is_named_without_the_kernels_words() -> None:
    found = first_obstacle(facts(cpu("sse2 avx512f pti vmx"), cpu("sse2")))
    assert found is not None
    assert found.reason == Reason.CPU_FEATURES_MISSING
    assert "lacks avx512f, which" in found.message


def test_requested_memory_must_be_free() -> None:
    little = {"capacity": {"freeMemoryBytes": 100 * 2**20}}
    assert first_obstacle(facts(target=little, memory="64Mi")) is None
    found = first_obstacle(facts(target=little, memory="1Gi"))
    assert found is not None
    assert found.reason == Reason.INSUFFICIENT_MEMORY
    assert "1024 MiB" in found.message


def test_requests_must_fit_beside_those_on_the_target() -> None:
    has = {"capacity": {"memoryBytes": 2**30, "freeMemoryBytes": 2**30}}
    made = facts(target=has, memory="600Mi")
    assert first_obstacle(made) is None
    taken = replace(made.target, demands=(Demand("other", memory_bytes=2**29),))
    found = first_obstacle(replace(made, target=taken, uid="web"))
    assert found is not None
    assert found.reason == Reason.INSUFFICIENT_MEMORY
    assert "512 MiB" in found.message


def test_alike_nodes_with_userfaultfd_object_to_nothing() -> None:
    assert first_obstacle(facts(kernel("v1"), kernel("v1"))) is None


def test_a_cold_move_asks_nothing_of_criu_or_the_cpu() -> None:
    features = {"machine": "x86_64", "cpuFlags": [], "cgroup": "v2", "userfaultfd": False}
    old = {"versions": {"criu": "3.0"}, "features": features}
    assert first_obstacle(facts(target=old, strategy=Strategy.COLD)) is None
