"""The paths and cgroups of containers on a node.

They are the same on every node, since CRIU's images name some of them. What must survive a power
cut is below state_dir, on a disk; what the next boot must not see is below runtime_dir, on a tmpfs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The agent's directories, and the paths below them."""

    state_dir: Path = Path("/var/lib/transship")
    runtime_dir: Path = Path("/run/transship")
    cgroup_parent: str = "/transship"
    """The parent of all cgroups here, relative to the root of each hierarchy."""
    host_root: Path = Path("/")
    """Where the file system of the node is mounted for the agent."""
    secrets: tuple[Path, ...] = ()
    """The agent's keys and tokens, which no container may reach."""

    # Below state_dir.

    @property
    def image_store(self) -> Path:
        """The unpacked images, by digest."""
        return self.state_dir / "images"

    @property
    def all_containers(self) -> Path:
        """The directories of all containers, by id."""
        return self.state_dir / "containers"

    def container(self, container_id: str) -> Path:
        """The directory of one container; removing a container deletes it."""
        return self.all_containers / container_id

    def bundle(self, container_id: str) -> Path:
        """The OCI bundle: config.json and rootfs."""
        return self.container(container_id) / "bundle"

    def rootfs(self, container_id: str) -> Path:
        """The mount point of the overlay."""
        return self.bundle(container_id) / "rootfs"

    def upper(self, container_id: str) -> Path:
        """The upper layer of the overlay: the container's changes to its image."""
        return self.container(container_id) / "upper"

    def work(self, container_id: str) -> Path:
        """The work directory of the overlay, on the file system of `upper`; it does not move."""
        return self.container(container_id) / "work"

    def volumes(self, container_id: str) -> Path:
        """The volumes that move with the container, by name."""
        return self.container(container_id) / "volumes"

    def shm(self, container_id: str) -> Path:
        """The tmpfs that is bind-mounted on /dev/shm."""
        return self.container(container_id) / "shm"

    def shares(self, container_id: str) -> Path:
        """The mount points of nfs volumes, by name; they do not move."""
        return self.container(container_id) / "shares"

    def devices(self, container_id: str) -> Path:
        """A /dev that a restore mounts, so that CRIU's images need none (rootfs.make_devices)."""
        return self.container(container_id) / "dev"

    def etc(self, container_id: str) -> Path:
        """The files that are bind-mounted on /etc/hosts, /etc/hostname and /etc/resolv.conf."""
        return self.container(container_id) / "etc"

    def log(self, container_id: str) -> Path:
        """The log, in the format of the CRI, written by conmon."""
        return self.container(container_id) / "container.log"

    def criu_config(self, container_id: str) -> Path:
        """CRIU's configuration file for a restore, which the annotation org.criu.config names."""
        return self.container(container_id) / "criu.conf"

    @property
    def gate(self) -> Path:
        """The directory of the program that runc runs as criu (criu.gate)."""
        return self.state_dir / "gate"

    # Below runtime_dir.

    @property
    def runc_root(self) -> Path:
        """Runc's state of each container, by id."""
        return self.runtime_dir / "runc"

    @property
    def exits(self) -> Path:
        """One file per container that has ended, by id, with its exit code; written by conmon."""
        return self.runtime_dir / "exits"

    @property
    def sockets(self) -> Path:
        """Conmon's sockets for attaching to containers."""
        return self.runtime_dir / "sockets"

    @property
    def conmon_cgroup(self) -> str:
        """The cgroup of all conmons, outside of the agent's, so that they survive its end."""
        return f"{self.cgroup_parent}/conmon"

    def persist(self, container_id: str) -> Path:
        """Conmon's own directory for a container: pid files, exit code, OOM mark."""
        return self.runtime_dir / "conmon" / container_id

    def pidfile(self, container_id: str) -> Path:
        """The pid of the container's process 1."""
        return self.persist(container_id) / "pidfile"

    def conmon_pidfile(self, container_id: str) -> Path:
        """The pid of its conmon."""
        return self.persist(container_id) / "conmon.pid"

    def images(self, container_id: str) -> Path:
        """CRIU's images of the container; `work` in there has CRIU's logs and sockets."""
        return self.runtime_dir / "checkpoint" / container_id

    def netns(self, container_id: str) -> Path:
        """The file that the container's network namespace is mounted on."""
        return self.runtime_dir / "netns" / container_id

    # Cgroups.

    def cgroup(self, container_id: str) -> str:
        """The container's cgroup, relative to the root of each hierarchy."""
        return f"{self.cgroup_parent}/{container_id}"

    def criu_cgroup(self, container_id: str) -> str:
        """The cgroup of the gate and the CRIU that restore the container.

        They must not be frozen with it.
        """
        return f"{self.cgroup(container_id)}.criu"
