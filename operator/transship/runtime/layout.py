"""Where everything of a container lies on a node.

The same on every node, since CRIU's images name some of these paths. What must outlive a power cut
is below state_dir (a disk); what the next boot must not see is below runtime_dir (a tmpfs).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The agent's two directories and the cgroup that all its containers are below.

    Also where the agent finds the node's own files, and its own that no container may get.
    """

    state_dir: Path = Path("/var/lib/transship")
    runtime_dir: Path = Path("/run/transship")
    cgroup_parent: str = "/transship"
    host_root: Path = Path("/")
    secrets: tuple[Path, ...] = ()

    # On the disk.

    @property
    def image_store(self) -> Path:
        return self.state_dir / "images"

    @property
    def all_containers(self) -> Path:
        return self.state_dir / "containers"

    def container(self, container_id: str) -> Path:
        return self.all_containers / container_id

    def bundle(self, container_id: str) -> Path:
        return self.container(container_id) / "bundle"

    def rootfs(self, container_id: str) -> Path:
        """Where the merged overlay is mounted."""
        return self.bundle(container_id) / "rootfs"

    def upper(self, container_id: str) -> Path:
        return self.container(container_id) / "upper"

    def work(self, container_id: str) -> Path:
        """The overlay's own work directory: never copied, on the same file system as upper."""
        return self.container(container_id) / "work"

    def volumes(self, container_id: str) -> Path:
        return self.container(container_id) / "volumes"

    def shm(self, container_id: str) -> Path:
        """The tmpfs that is bind-mounted over /dev/shm."""
        return self.container(container_id) / "shm"

    def shares(self, container_id: str) -> Path:
        """Where network file systems are mounted: apart from volumes, since they do not move."""
        return self.container(container_id) / "shares"

    def devices(self, container_id: str) -> Path:
        """A /dev for a restore that does not want to unpack one from CRIU's images."""
        return self.container(container_id) / "dev"

    def etc(self, container_id: str) -> Path:
        """The files bind-mounted over /etc/hosts, /etc/hostname and /etc/resolv.conf."""
        return self.container(container_id) / "etc"

    def log(self, container_id: str) -> Path:
        return self.container(container_id) / "container.log"

    def criu_config(self, container_id: str) -> Path:
        """What the annotation org.criu.config names; written before each dump and restore."""
        return self.container(container_id) / "criu.conf"

    @property
    def gate(self) -> Path:
        """The folder of the program that runc takes for criu."""
        return self.state_dir / "gate"

    # In memory.

    @property
    def runc_root(self) -> Path:
        return self.runtime_dir / "runc"

    @property
    def exits(self) -> Path:
        """One file per ended container, by conmon: its name the id, its content the code."""
        return self.runtime_dir / "exits"

    @property
    def sockets(self) -> Path:
        return self.runtime_dir / "sockets"

    @property
    def conmon_cgroup(self) -> str:
        """The cgroup of all conmons: apart from the agent's, so that its end is not theirs."""
        return f"{self.cgroup_parent}/conmon"

    def persist(self, container_id: str) -> Path:
        return self.runtime_dir / "conmon" / container_id

    def pidfile(self, container_id: str) -> Path:
        return self.persist(container_id) / "pidfile"

    def conmon_pidfile(self, container_id: str) -> Path:
        return self.persist(container_id) / "conmon.pid"

    def images(self, container_id: str) -> Path:
        """CRIU's images, on a tmpfs."""
        return self.runtime_dir / "checkpoint" / container_id

    def netns(self, container_id: str) -> Path:
        return self.runtime_dir / "netns" / container_id

    # Cgroups.

    def cgroup(self, container_id: str) -> str:
        """The container's cgroup, relative to each controller's root."""
        return f"{self.cgroup_parent}/{container_id}"

    def criu_cgroup(self, container_id: str) -> str:
        """The cgroup of the gate and the CRIU that restore the container.

        They must not be frozen with it.
        """
        return f"{self.cgroup(container_id)}.criu"
