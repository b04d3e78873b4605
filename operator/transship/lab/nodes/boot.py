"""Process 1 of a lab's node: mounts the node's file systems, then reaps orphans.

The machine's Python runs it, in new mount, UTS, IPC, PID and network namespaces; at the end it
execs the Python of the node image. All its mounts vanish with the mount namespace. It may import
the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import subprocess
import sys
import uuid
from pathlib import Path

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
# below the node's root: exists once daemons can be started in the node
BOOTED = "run/booted"
DISK = "var/lib/transship"
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "net/tun": (10, 200),
    "fuse": (10, 229),
}
LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
SYSCTLS = {"net/ipv4/ip_forward": "1"}
BOOT_ID = "sys/kernel/random/boot_id"

# reaps orphans only (conmon, for example, leaves its parent on purpose)
REAPER = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
open("/run/booted", "w").close()
while True:
    signal.sigwait({signal.SIGCHLD})
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""

libc = ctypes.CDLL(None, use_errno=True)


def main(node_dir: Path, image: Path, hostname: str) -> None:
    root = node_dir / "root"
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    layers = f"lowerdir={image},upperdir={node_dir / 'upper'},workdir={node_dir / 'work'}"
    mount("overlay", root, kind="overlay", data=layers)
    mount_kernel_views(root)
    make_devices(root / "dev")
    mount_disk(node_dir, root / DISK)
    socket.sethostname(hostname)
    for name, value in SYSCTLS.items():
        Path("/proc/sys", name).write_text(value)
    enter(root)
    os.execv("/usr/bin/python3", ["node-init", "-ISc", REAPER])  # noqa: S606


def mount_kernel_views(root: Path) -> None:
    quiet = MS_NOSUID | MS_NODEV
    mount("proc", root / "proc", kind="proc", flags=quiet | MS_NOEXEC)
    mount("sysfs", root / "sys", kind="sysfs", flags=quiet | MS_NOEXEC)
    # the node's containers have their cgroups in the machine's hierarchies
    mount("/sys/fs/cgroup", root / "sys/fs/cgroup", flags=MS_BIND | MS_REC)
    for name, mode in (("run", "755"), ("tmp", "1777")):
        # CRIU caches the kernel's features only if /run is a tmpfs
        mount("tmpfs", root / name, kind="tmpfs", flags=quiet, data=f"mode={mode}")
    # with the machine's boot id, agents would not notice a restart of the node
    identity = root / "run/boot_id"
    identity.write_text(f"{uuid.uuid4()}\n")
    mount(identity, root / "proc" / BOOT_ID, flags=MS_BIND)


def make_devices(dev: Path) -> None:
    mount("tmpfs", dev, kind="tmpfs", flags=MS_NOSUID, data="mode=755")
    for name, (major, minor) in DEVICES.items():
        path = dev / name
        path.parent.mkdir(exist_ok=True)
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        path.chmod(0o666)
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)
    for name in ("pts", "shm", "mqueue"):
        (dev / name).mkdir()
    mount("devpts", dev / "pts", kind="devpts", flags=MS_NOSUID, data="newinstance,ptmxmode=0666")
    mount("tmpfs", dev / "shm", kind="tmpfs", flags=MS_NOSUID, data="mode=1777")
    mount("mqueue", dev / "mqueue", kind="mqueue", flags=MS_NOSUID)


def mount_disk(node_dir: Path, target: Path) -> None:
    """Mount the node's disk: a loop device that frees itself, or else a directory."""
    target.mkdir(parents=True, exist_ok=True)
    image = node_dir / "disk.img"
    # barrier=0: a flush would go through two journals (1.2 ms instead of 0.4 ms), and the machine's
    # page cache outlives a killed node
    command = ["mount", "-t", "ext4", "-o", "loop,barrier=0", str(image), str(target)]
    if image.exists():
        done = subprocess.run(command, check=False)
        if done.returncode == 0:
            return
        print("no loop device: the disk is a directory without a size limit", flush=True)
    directory = node_dir / "disk"
    directory.mkdir(exist_ok=True)
    mount(directory, target, flags=MS_BIND)


def enter(root: Path) -> None:
    """Make this the root and detach the machine's file systems."""
    os.chdir(root)
    # pivot_root(2): with "." twice, the old root is stacked on the new one and needs no folder
    check(libc.pivot_root(b".", b"."), "entering the root")
    check(libc.umount2(b".", MNT_DETACH), "leaving the old root")
    os.chdir("/")


def mount(
    source: str | Path, target: str | Path, *, kind: str = "", flags: int = 0, data: str = ""
) -> None:
    words = [os.fsencode(source), os.fsencode(target), kind.encode()]
    check(libc.mount(*words, flags, data.encode()), f"mounting {target}")


def check(result: int, doing: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{doing}: {os.strerror(error)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
