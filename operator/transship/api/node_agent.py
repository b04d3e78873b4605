"""NodeAgent: one per agent, written by the agent itself; its facts, capacity and self-test."""

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
    """What the administrator wishes of the node."""

    unschedulable: bool = False
    """No container is placed on or moved to this node, as after kubectl cordon."""


class Versions(ApiModel):
    """Of the programs that run and move containers."""

    agent: ShortText = ""
    kernel: ShortText = ""
    criu: ShortText = ""
    runc: ShortText = ""
    conmon: ShortText = ""


class Features(ApiModel):
    """What migrations depend on."""

    cgroup: ShortText = ""
    """v1 or v2."""
    soft_dirty: bool = False
    """The kernel tracks changed pages (needed by PreCopy, unless pagemapScan)."""
    pagemap_scan: bool = False
    """The kernel has PAGEMAP_SCAN (6.7)."""
    userfaultfd: bool = False
    """Pages can be fetched on demand (needed by PostCopy)."""
    cpu_model: ShortText = ""
    cpu_flags: Annotated[
        tuple[Annotated[str, Field(max_length=64)], ...], Field(**list_atomic(max_items=1024))
    ] = ()
    """The CPU's features as in /proc/cpuinfo."""
    machine: ShortText = ""
    """The architecture, as uname -m says it."""


class Capacity(ApiModel):
    """What the node has, and what of it is free.

    What placements request of CPU, memory and pids is compared with the whole of it.
    """

    cpu_millicores: Int64 = 0
    memory_bytes: Int64 = 0
    pids: Int64 = 0
    """Processes and threads that there can be."""
    disk_bytes: Int64 = 0
    free_memory_bytes: Int64 = 0
    free_disk_bytes: Int64 = 0
    containers: Int32 = 0
    """Containers of placements on the node."""


class SelfTest(ApiModel):
    """A real dump and restore of a small process with a TCP socket."""

    passed: bool
    time: MicroTime
    milliseconds: Int64 = 0
    message: Text = ""


class NodeAgentStatus(ApiModel):
    """Observed; written by the agent alone."""

    conditions: Conditions = ()
    observed_generation: Int64 = 0
    """The metadata.generation that this status speaks of."""
    endpoint: ShortText = ""
    """https://ADDRESS:PORT, where operator and agents reach it."""
    address: ShortText = ""
    """The node's address in the network of the containers."""
    addresses: Annotated[tuple[Address, ...], Field(**list_atomic(max_items=16))] = ()
    """All of the node's addresses in that network, address first: a container moves to nodes that
    have one of its IP family."""
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
