"""NodeAgent: one per node, written by the node's agent: facts, capacity, self-test, conditions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from transship.api.base import (
    Address,
    ApiModel,
    Int32,
    Int64,
    MicroTime,
    Resource,
    ShortText,
    Text,
    list_atomic,
)
from transship.api.conditions import Conditions


class NodeAgentSpec(ApiModel):
    """What the administrator wants of the node."""

    unschedulable: bool = False
    """If true, no container is placed on this node or moved to it, as after kubectl cordon."""


class Versions(ApiModel):
    """The versions of the programs that run and move containers."""

    agent: ShortText = ""
    kernel: ShortText = ""
    criu: ShortText = ""
    runc: ShortText = ""
    conmon: ShortText = ""


class Features(ApiModel):
    """The features of the node on which migrations depend."""

    cgroup: ShortText = ""
    """v1 or v2."""
    soft_dirty: bool = False
    """The kernel tracks changed pages by soft-dirty bits. They are used where pagemapScan is false.
    With neither, the agent reads all pages to find those that changed."""
    pagemap_scan: bool = False
    """The kernel has PAGEMAP_SCAN (Linux 6.7), which finds changed pages."""
    userfaultfd: bool = False
    """The kernel can give restored processes their pages on demand. The target of every live move
    needs it."""
    cpu_model: ShortText = ""
    cpu_flags: Annotated[
        tuple[Annotated[str, Field(max_length=64)], ...], Field(**list_atomic(max_items=1024))
    ] = ()
    """The CPU's features, as in /proc/cpuinfo."""
    machine: ShortText = ""
    """The architecture, as printed by uname -m."""


class Capacity(ApiModel):
    """The node's resources, and how much of them is free.

    The requests of placements for CPU, memory and pids are compared with the totals.
    """

    cpu_millicores: Int64 = 0
    memory_bytes: Int64 = 0
    pids: Int64 = 0
    """The highest possible number of processes and threads."""
    disk_bytes: Int64 = 0
    free_memory_bytes: Int64 = 0
    free_disk_bytes: Int64 = 0
    containers: Int32 = 0
    """The number of placements' containers on the node."""


class SelfTest(ApiModel):
    """The result of a real dump and restore of a small process with a TCP socket."""

    passed: bool
    time: MicroTime
    milliseconds: Int64 = 0
    message: Text = ""


class NodeAgentStatus(ApiModel):
    """The observed state. The agent writes it, and the operator sets Ready if the agent is gone."""

    conditions: Conditions = ()
    """Ready and Healthy. The operator sets Ready to Unknown when the agent no longer renews its
    lease."""
    observed_generation: Int64 = 0
    """The metadata.generation to which this status belongs."""
    endpoint: ShortText = ""
    """https://ADDRESS:PORT, where the operator and other agents reach this one."""
    address: ShortText = ""
    """The node's address in the network of the containers."""
    addresses: Annotated[tuple[Address, ...], Field(**list_atomic(max_items=16))] = ()
    """All addresses of the node in that network; address is the first. A container moves only to
    nodes that have an address of each of its IP families."""
    boot_id: Annotated[ShortText, Field(alias="bootID")] = ""
    """Changes when the node restarts."""
    versions: Versions = Versions()
    features: Features = Features()
    capacity: Capacity = Capacity()
    self_test: SelfTest | None = None


class NodeAgent(Resource):
    """A node that runs containers."""

    spec: NodeAgentSpec = NodeAgentSpec()
    status: NodeAgentStatus = NodeAgentStatus()
