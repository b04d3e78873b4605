"""A podman container on a lab's nodes, moved with the commands that a user of podman types.

It has its own address on the lab's network, so that podman can restore its connections on the other
node. The archive crosses the lab's network unencrypted.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pyroute2 import IPRoute

from transship.common.errors import DeadlineExceeded
from transship.common.processes import run_blocking
from transship.lab.images.sample_images import sample_name
from transship.lab.nodes.namespace_nodes import ENVIRONMENT, enter_words
from transship.lab.proof.counter_client import PORT
from transship.lab.state import LabState, lab_dir

# lines for the Dockerfile of the node image; CRIU locks connections with iptables
ADDITION = """\
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \\
      iptables netavark podman \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
"""

NAME = "bench-podman"
HOST_NUMBER = 100
"""The container's address in the network: after the nodes', before those of placements."""
ARCHIVE = f"/var/lib/transship/{NAME}.tar"
CARRY_PORT = 9000
STORE = (
    # on the node's disk, because the node's root is an overlay already
    *("--root", f"/var/lib/transship/{NAME}"),
    *("--runroot", f"/run/{NAME}", "--cgroup-manager", "cgroupfs", "--runtime", "runc"),
)
SETTINGS = {**ENVIRONMENT, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
TIMEOUT_SECONDS = 300.0
POLL_SECONDS = 0.02
NUD_PERMANENT = 0x80


@dataclass(frozen=True)
class Steps:
    """How long each step took, and the size of the archive."""

    checkpoint_ms: float
    carry_ms: float
    restore_ms: float
    archive_bytes: int


class PodmanContainer:
    """The counter image, run by podman on the first node."""

    def __init__(self, state: LabState, *, memory: int, dirty: int, compress: str) -> None:
        self._state = state
        self._memory, self._dirty, self._compress = memory, dirty, compress
        self.address = str(state.network[HOST_NUMBER])
        self._mac = f"02:54:53:{state.index:02x}:00:{HOST_NUMBER:02x}"

    def __enter__(self) -> Self:
        # an earlier run may have left it
        self._remove()
        for node in self._state.nodes:
            self._podman(node, "pull", "--quiet", "--tls-verify=false", self._image)
            self._podman(node, *self._network())
        self._fix_neighbour()
        self._podman(self._state.nodes[0], *self._run())
        self._await_listening()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def move(self, source: str, target: str) -> Steps:
        """Move it. Returns once it runs on the target and is removed from the source."""
        export = ["--export", ARCHIVE, "--compress", self._compress, "--tcp-established"]
        with self._receiving(target) as receiver:
            began = time.monotonic()
            self._podman(source, "container", "checkpoint", *export, NAME)
            written = time.monotonic()
            self._send(source, target)
            receiver.wait(TIMEOUT_SECONDS)
        carried = time.monotonic()
        self._podman(target, "container", "restore", "--import", ARCHIVE, "--tcp-established")
        restored = time.monotonic()
        size = int(self._on(source, "stat", "--format=%s", ARCHIVE))
        self._podman(source, "rm", NAME)
        for node in (source, target):
            self._on(node, "rm", ARCHIVE)
        return Steps(
            checkpoint_ms=_milliseconds(written - began),
            carry_ms=_milliseconds(carried - written),
            restore_ms=_milliseconds(restored - carried),
            archive_bytes=size,
        )

    @property
    def _image(self) -> str:
        return sample_name(str(self._state.registry), "counter")

    def _network(self) -> list[str]:
        """A macvlan network, the kind with addresses in the nodes' own network."""
        subnet = ["--subnet", str(self._state.network)]
        return ["network", "create", "--driver=macvlan", "--opt=parent=eth0", *subnet, NAME]

    def _run(self) -> list[str]:
        mebi = 1 << 20
        fill = ["--env", f"MEMORY_MIB={self._memory // mebi}"]
        dirty = ["--env", f"DIRTY_MIB_PER_SECOND={self._dirty // mebi}"]
        place = ["--network", NAME, "--ip", self.address, "--mac-address", self._mac]
        # `lab down` removes this cgroup
        cgroup = f"--cgroup-parent={self._state.cgroup}/podman"
        return ["run", "--detach", "--name", NAME, cgroup, *place, *fill, *dirty, self._image]

    def _fix_neighbour(self) -> None:
        """Set a permanent neighbour entry: without it, the machine looks once a second."""
        with IPRoute() as machine:
            (link,) = machine.link_lookup(ifname=self._state.machine_link)
            machine.neigh(
                "replace", dst=self.address, lladdr=self._mac, ifindex=link, state=NUD_PERMANENT
            )

    def _await_listening(self) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((self.address, PORT), timeout=1).close()
                return
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"starting {NAME}: it does not listen")
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _receiving(self, node: str) -> Iterator[subprocess.Popen[bytes]]:
        words = ["socat", "-u", f"TCP-LISTEN:{CARRY_PORT},reuseaddr", f"CREATE:{ARCHIVE}"]
        with subprocess.Popen([*self._enter(node), *words], env=SETTINGS) as process:
            try:
                yield process
            finally:
                process.kill()

    def _send(self, source: str, target: str) -> None:
        address = f"TCP:{self._state.address(target)}:{CARRY_PORT},retry=100,interval=0.1"
        self._on(source, "socat", "-u", f"OPEN:{ARCHIVE}", address)

    def _remove(self) -> None:
        for node in self._state.nodes:
            self._podman(node, "rm", "--force", "--ignore", "--time=0", NAME)
            self._podman(node, "network", "rm", "--force", NAME)
            self._on(node, "rm", "-f", ARCHIVE)

    def _podman(self, node: str, *words: str) -> str:
        return self._on(node, "podman", *STORE, *words)

    def _on(self, node: str, *words: str) -> str:
        argv = [*self._enter(node), *words]
        return run_blocking(argv, env=SETTINGS, timeout_seconds=TIMEOUT_SECONDS).stdout

    def _enter(self, node: str) -> list[str]:
        return enter_words(lab_dir(self._state.name), node)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 1)
