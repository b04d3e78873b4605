"""Snapshots of what a container or a migration can leave behind on a node, read from the kernel.

Two snapshots of a node without containers are equal; what one has more is a leftover. The image
cache, logs, and numbers that the kernel assigns are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from transship.lab.nodes import cgroups, namespace_nodes
from transship.lab.state import LabState
from transship.network.netlink import ROUTE_PROTOCOL

NodeSnapshot = frozenset[str]

FOLDERS = ("var/lib/transship", "run/transship")
IGNORED_FOLDERS = frozenset({"var/lib/transship/images", "var/lib/transship/lost+found"})
# kinds of the baseline that must never be missing
PERMANENT = ("process", "link")
# the route to the new node, which the old node keeps for a while after a container has left
STALE_ROUTE = "stale route"
# the kernel fills it from the links' addresses
LOCAL_TABLE = "255"
# made with a node's first container, gone after a reboot
SHARED_CGROUPS = frozenset({"conmon"})
NUD_PERMANENT = 0x80
IPV4 = 2
NTF_PROXY = 8
LAB_PROCESSES = ("nsenter", "node-init")


def take_snapshot(state_dir: Path, state: LabState, node: str) -> NodeSnapshot:
    """The node must be running."""
    pid = namespace_nodes.node_pid(state_dir, node)
    cgroup = state.cgroup_of(node)
    return frozenset(
        [
            *_mounts(pid),
            *_files(Path(f"/proc/{pid}/root")),
            *_cgroups(cgroup),
            *_network(pid),
            *_processes(cgroup),
        ]
    )


def without_stale_routes(snapshot: NodeSnapshot) -> NodeSnapshot:
    return frozenset(item for item in snapshot if not item.startswith(STALE_ROUTE))


def _mounts(pid: int) -> Iterator[str]:
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields = line.split()
        yield f"mount {fields[4]} ({fields[fields.index('-') + 1]})"


def _files(root: Path) -> Iterator[str]:
    for top in FOLDERS:
        for folder, folders, files in os.walk(root / top):
            inside = Path(folder).relative_to(root)
            folders[:] = [name for name in folders if str(inside / name) not in IGNORED_FOLDERS]
            # all containers share these: the first one makes them, a reboot removes them
            own = folders if inside != Path(top) else []
            yield from (f"file /{inside / name}" for name in (*own, *files))


def _cgroups(cgroup: str) -> Iterator[str]:
    for hierarchy in cgroups.hierarchies():
        top = hierarchy / cgroup.strip("/")
        for folder, _, _ in os.walk(top):
            if (name := str(Path(folder).relative_to(top))) not in SHARED_CGROUPS:
                yield f"cgroup {name}"


def _network(pid: int) -> Iterator[str]:
    with IPRoute(netns=f"/proc/{pid}/ns/net") as inside:
        names = {link["index"]: _attribute(link, "IFLA_IFNAME") for link in inside.get_links()}
        yield from (f"link {name}" for name in names.values())
        for route in inside.get_routes():
            table = _attribute(route, "RTA_TABLE")
            if route["proto"] == ROUTE_PROTOCOL and dict(route["attrs"]).get("RTA_GATEWAY"):
                yield f"{STALE_ROUTE} {_attribute(route, 'RTA_DST')}"
            elif table != LOCAL_TABLE:
                yield f"route {_attribute(route, 'RTA_DST')}/{route['dst_len']} table {table}"
        for rule in inside.get_rules():
            yield f"rule {_attribute(rule, 'FRA_PRIORITY')} table {_attribute(rule, 'FRA_TABLE')}"
        for neighbour in inside.get_neighbours(family=IPV4):
            if neighbour["state"] & NUD_PERMANENT and names.get(neighbour["ifindex"]) != "lo":
                yield f"neighbour {_attribute(neighbour, 'NDA_DST')}"
        for proxy in inside.get_neighbours(family=IPV4, match={"flags": NTF_PROXY}):
            yield f"answers for {_attribute(proxy, 'NDA_DST')}"


def _attribute(message: Mapping[str, Any], attribute: str) -> str:
    return str(dict(message["attrs"]).get(attribute))


def _processes(cgroup: str) -> Iterator[str]:
    """The first words of each command line, numbered where several are the same."""
    counts: dict[str, int] = {}
    for pid in cgroups.processes(cgroup):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            name = " ".join(Path(word).name for word in words[:3])
            if words[0] and not name.startswith(LAB_PROCESSES):
                counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        yield from (f"process {name}, number {number}" for number in range(1, count + 1))
