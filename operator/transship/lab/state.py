"""The record of a lab, in its directory, written before anything of the lab is created.

Name, index and nodes determine all names and addresses of a lab. So the record alone tells the
cleanup what to look for, however far the creation came.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from transship.common.errors import DeadlineExceeded, InvalidInput, NotFound, TransshipError

HOME = Path("/var/lib/transship-lab")
FIRST_NETWORK = IPv4Network("10.200.0.0/16")
FIRST_NETWORK_V6 = IPv6Network("fd54:7368:6970::/64")
MAX_LABS = 256 - 200
MAX_NODES = 26
MAX_LINK_NAME = 15
OPERATOR = "operator"
MACHINE = "machine"
NODE_PREFIX = "node-"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
# the longest time that `up` holds the lock, once everything is built
LOCK_TIMEOUT_SECONDS = 60.0
LOCK_POLL_SECONDS = 0.05


class Flow(BaseModel):
    """One direction of one TCP connection."""

    model_config = ConfigDict(frozen=True)

    source_port: int
    target_port: int

    @property
    def reversed(self) -> Flow:
        return Flow(source_port=self.target_port, target_port=self.source_port)


class Cut(BaseModel):
    """Frames from `source` to `target` are dropped: `percent` of them, or those of `flows` only."""

    model_config = ConfigDict(frozen=True)

    source: str
    target: str
    percent: int = 100
    flows: tuple[Flow, ...] = ()
    """Empty: all connections."""


class LabState(BaseModel):
    """The record. It is immutable: save a changed copy."""

    model_config = ConfigDict(frozen=True)

    name: str
    index: int
    nodes: tuple[str, ...]
    image: Path | None = None
    registry: str | None = None
    kubeconfig: Path | None = None
    """The administrator's."""
    kubectl: Path | None = None
    link_rate: int | None = None
    """Bits per second, in each direction, of each node's link."""
    cuts: tuple[Cut, ...] = ()
    machines: bool = False
    """The nodes are virtual machines."""

    @property
    def network(self) -> IPv4Network:
        return nth_network(self.index)

    @property
    def network_v6(self) -> IPv6Network:
        step = FIRST_NETWORK_V6.num_addresses * self.index
        first = int(FIRST_NETWORK_V6.network_address) + step
        return IPv6Network((first, FIRST_NETWORK_V6.prefixlen))

    @property
    def containers(self) -> IPv4Network:
        """The half of the lab's network for the addresses of placements."""
        return list(self.network.subnets())[1]

    @property
    def containers_v6(self) -> IPv6Network:
        return list(self.network_v6.subnets())[1]

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts on the lab's network: the machine, the operator's host and the nodes."""
        return (MACHINE, OPERATOR, *self.nodes)

    def address(self, host: str) -> IPv4Address:
        return self.network[self._number(host)]

    def address_v6(self, host: str) -> IPv6Address:
        return self.network_v6[self._number(host)]

    def mac(self, host: str) -> str:
        """Fixed, so that neighbour entries stay valid when a node restarts."""
        return f"02:54:53:{self.index:02x}:00:{self._number(host):02x}"

    @property
    def machine_link(self) -> str:
        """The machine's link into the lab, named after it. The kernel allows 15 characters."""
        readable = f"ts-{self.name}"
        if len(readable) <= MAX_LINK_NAME:
            return readable
        return f"ts-{hashlib.sha256(self.name.encode()).hexdigest()}"[:MAX_LINK_NAME]

    @property
    def cgroup(self) -> str:
        return f"/transship-{self.name}"

    def cgroup_of(self, host: str) -> str:
        return f"{self.cgroup}/{host}"

    def _number(self, host: str) -> int:
        if host in self.nodes:
            return 11 + self.nodes.index(host)
        try:
            return {MACHINE: 1, OPERATOR: 2}[host]
        except KeyError as e:
            raise NotFound(
                f"lab {self.name} has no {host}", hint=f"it has {', '.join(self.hosts)}"
            ) from e


def nth_network(index: int) -> IPv4Network:
    step = FIRST_NETWORK.num_addresses * index
    return IPv4Network((int(FIRST_NETWORK.network_address) + step, FIRST_NETWORK.prefixlen))


def node_names(count: int) -> tuple[str, ...]:
    if not 1 <= count <= MAX_NODES:
        raise InvalidInput(f"--nodes is {count}: 1 to {MAX_NODES} are possible")
    return tuple(f"{NODE_PREFIX}{chr(ord('a') + number)}" for number in range(count))


def lab_dir(name: str, *, home: Path = HOME) -> Path:
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"--name is {name!r}: up to 32 lower-case letters, digits, inner hyphens are possible"
        )
    return home / name


def free_index(home: Path, *, used: Iterable[IPv4Network]) -> int:
    """The first index of no other lab whose network overlaps no network in use."""
    networks = list(used)
    taken = {state.index for state in all_states(home)}
    for index in range(MAX_LABS):
        if index not in taken and not any(nth_network(index).overlaps(net) for net in networks):
            return index
    raise TransshipError("no free network for the lab", hint="10.200.0.0 and all above are in use")


def all_states(home: Path = HOME) -> list[LabState]:
    states = [find_state(path.parent) for path in sorted(home.glob("*/lab.json"))]
    return [state for state in states if state is not None]


def find_state(directory: Path) -> LabState | None:
    try:
        return LabState.model_validate_json((directory / "lab.json").read_text())
    except FileNotFoundError:
        return None
    except ValidationError as e:
        raise TransshipError(f"reading {directory / 'lab.json'}: it is damaged") from e


def load_state(directory: Path) -> LabState:
    state = find_state(directory)
    if state is None:
        raise NotFound(f"there is no lab called {directory.name}", hint="transship lab up")
    return state


def save_state(directory: Path, state: LabState) -> LabState:
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / "lab.json.draft"
    draft.write_text(state.model_dump_json(indent=2) + "\n")
    draft.replace(directory / "lab.json")
    return state


@contextlib.contextmanager
def locked(directory: Path, *, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
    """Let only one command change a lab at a time. Raises DeadlineExceeded.

    The lock is an abstract socket name: it leaves no file behind, and the kernel releases it when
    the process ends.
    """
    name = f"\0transship-lab:{hashlib.sha256(os.fsencode(directory)).hexdigest()}"
    deadline = time.monotonic() + timeout_seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        while not _try_lock(lock, name):
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"another command is changing lab {directory.name}")
            time.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(lock: socket.socket, name: str) -> bool:
    try:
        lock.bind(name)
    except OSError as e:
        if e.errno != errno.EADDRINUSE:
            raise
        return False
    return True
