"""Everything on a node that a container or a migration can leave behind, read from the kernel.

Two inventories of a node at rest are equal; what one has more than the other is a leftover. The
cache of images, logs and the numbers that the kernel gives are no part of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from transship.lab.nodes import cgroups, nodes
from transship.lab.state import LabState
from transship.network.netlink import ROUTE_PROTOCOL

Inventory = frozenset[str]

FOLDERS = ("var/lib/transship", "run/transship")
NOT_LOOKED_INTO = frozenset({"var/lib/transship/images", "var/lib/transship/lost+found"})
LASTS = ("process", "link")  # of what is there at rest, what has to be there always
FORWARD = "forward"  # what a node keeps on purpose for a while after a container has left
LOCAL_TABLE = "255"  # follows from the links' addresses
SHARED_CGROUPS = frozenset({"conmon"})  # made with a node's first container, gone with a reboot
LASTING = 0x80  # NUD_PERMANENT
IPV4 = 2
PROCESSES_OF_THE_LAB = ("nsenter", "node-init")


def take(state_dir: Path, state: LabState, node: str) -> Inventory:
    """Of a node that runs."""
    pid = nodes.node_pid(state_dir, node)
    return frozenset(
        (*_mounts(pid), *_files(Path(f"/proc/{pid}/root")), *_cgroups(state.cgroup_of(node)),
         *_network(pid), *_processes(state.cgroup_of(node)))
    )  # fmt: skip


def without_forwards(found: Inventory) -> Inventory:
    return frozenset(item for item in found if not item.startswith(FORWARD))


def _mounts(pid: int) -> Iterator[str]:
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields = line.split()
        yield f"mount {fields[4]} ({fields[fields.index('-') + 1]})"


def _files(root: Path) -> Iterator[str]:
    for top in FOLDERS:
        for folder, folders, files in os.walk(root / top):
            inside = Path(folder).relative_to(root)
            folders[:] = [name for name in folders if str(inside / name) not in NOT_LOOKED_INTO]
            # folders that all containers share come with the first, and go with a reboot
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
        names = {link["index"]: _of(link, "IFLA_IFNAME") for link in inside.get_links()}
        yield from (f"link {name}" for name in names.values())
        for route in inside.get_routes():
            table = _of(route, "RTA_TABLE")
            if route["proto"] == ROUTE_PROTOCOL and dict(route["attrs"]).get("RTA_GATEWAY"):
                yield f"{FORWARD} {_of(route, 'RTA_DST')}"
            elif table != LOCAL_TABLE:
                yield f"route {_of(route, 'RTA_DST')}/{route['dst_len']} table {table}"
        for rule in inside.get_rules():
            yield f"rule {_of(rule, 'FRA_PRIORITY')} table {_of(rule, 'FRA_TABLE')}"
        for neighbour in inside.get_neighbours(family=IPV4):
            if neighbour["state"] & LASTING and names.get(neighbour["ifindex"]) != "lo":
                yield f"neighbour {_of(neighbour, 'NDA_DST')}"
        for proxy in inside.get_neighbours(family=IPV4, match={"flags": 8}):
            yield f"answers for {_of(proxy, 'NDA_DST')}"


def _of(message: Mapping[str, Any], attribute: str) -> str:
    found = dict(message["attrs"]).get(attribute)
    return str(found)


def _processes(cgroup: str) -> Iterator[str]:
    """By what they are, and how many of each there are."""
    counts: dict[str, int] = {}
    for pid in cgroups.members(cgroup):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            name = " ".join(Path(word).name for word in words[:3])
            if words[0] and not name.startswith(PROCESSES_OF_THE_LAB):
                counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        yield from (f"process {name}, number {number}" for number in range(1, count + 1))
