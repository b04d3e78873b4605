"""Takes a census of a container's processes: descriptors, sockets, mappings, namespaces, tracers.

It reads /proc while the container runs and does not disturb it; what ends meanwhile is omitted.
criu.obstacles judges the census. It takes some milliseconds per hundred descriptors: do not call it
on an event loop.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from transship.criu.hidden_memory import mappings as lazy
from transship.linux import mappings, pidfds
from transship.linux.pidfds import Socket

NAMESPACES = ("ipc", "mnt", "net", "pid", "time", "user", "uts")

# stat(2) of a file on these waits for a server, perhaps for ever
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse")
_INTERNET_TABLES = ("tcp", "udp", "udplite", "raw", "icmp")
_INODE_COLUMNS = {
    **{f"{name}{suffix}": 9 for name in _INTERNET_TABLES for suffix in ("", "6")},
    "packet": 8,
    "netlink": 9,
    "unix": 6,
}
"""Of the tables in /proc/PID/net."""
DELETED = " (deleted)"
STAT_BLOCK_BYTES = 512
LEAST_KEPT_BYTES = 64 << 20
"""A process that can have less than this in CRIU's images is not examined."""

_SOCKET = re.compile(r"^socket:\[(\d+)\]$")


@dataclass(frozen=True)
class Deleted:
    """A file that has lost the name by which it was opened."""

    links: int
    """Other names that it still has."""
    bytes: int
    """On the disk, without holes."""
    file: tuple[int, int] = (0, 0)
    """Device and inode: several descriptors and mappings may be of one file."""


@dataclass(frozen=True)
class MappedFile:
    """A mapping of a deleted file or a memory file."""

    target: str
    is_shared: bool
    deleted: Deleted


@dataclass(frozen=True)
class Descriptor:
    """One open file, from /proc/PID/fd and fdinfo."""

    number: int
    target: str
    mount: int = 0
    details: str = ""
    device: tuple[int, int] | None = None
    """Major and minor number of a character or block device."""
    deleted: Deleted | None = None
    """Of a regular file whose name was removed."""
    socket: Socket | None = None
    """Of a socket that is in no table of its network namespace."""

    @property
    def socket_inode(self) -> int | None:
        match = _SOCKET.match(self.target)
        return None if match is None else int(match[1])


@dataclass(frozen=True)
class Task:
    """A process of a container; `pid` and `tracer` are pids inside the container."""

    pid: int
    command: str
    tracer: int = 0
    dead_leader: bool = False
    """Its main thread has ended, other threads run on."""
    namespaces: Mapping[str, int] = field(default_factory=dict)
    descriptors: tuple[Descriptor, ...] = ()
    mapped: tuple[str, ...] = ()
    """The mapped devices, secret memory and anonymous inodes, by name."""
    mapped_files: tuple[MappedFile, ...] = ()
    kept_bytes: int = 0
    """Private memory that a lazy dump writes to the images; 0 where it is little."""


@dataclass(frozen=True)
class Mount:
    kind: str
    point: str
    device: tuple[int, int]


@dataclass(frozen=True)
class Census:
    """A container at one moment; the first task is process 1."""

    tasks: tuple[Task, ...]
    mounts: Mapping[int, Mount] = field(default_factory=dict)
    """By mount id, of all mount namespaces of the tasks."""
    runtime_mounts: frozenset[str] = frozenset()
    """Where runc has mounted something: a volume may be of any file system."""
    user_namespace: int = 0
    """Inode of the node's user namespace."""
    peers: Mapping[int, int] = field(default_factory=dict)
    """Inode of the peer by inode, of the connected Unix sockets of the network namespace."""
    queues: tuple[str, ...] = ()
    """Names of the POSIX message queues of its IPC namespace."""


def take(
    pids: Iterable[int], *, peers: Mapping[int, int], runtime_mounts: Iterable[str] = ()
) -> Census:
    """Take the census of processes, by their pids on the node."""
    ordered = sorted(pids, key=_inside)
    if not ordered:
        return Census(tasks=())
    first = Path(f"/proc/{ordered[0]}")
    mounts = _all_mounts(ordered)
    listed = {
        inode
        for name, column in _INODE_COLUMNS.items()
        for inode in _inodes(_text(first / "net" / name), column)
    }
    tasks = tuple(filter(None, (_task(pid, mounts=mounts, listed=listed) for pid in ordered)))
    return Census(
        tasks=tasks,
        mounts=mounts,
        runtime_mounts=frozenset(runtime_mounts),
        user_namespace=Path("/proc/self/ns/user").stat().st_ino,
        peers=peers,
        queues=_queues(first, mounts),
    )


def _all_mounts(pids: Iterable[int]) -> dict[int, Mount]:
    mounts: dict[int, Mount] = {}
    known_namespaces: set[int] = set()
    for process in (Path(f"/proc/{pid}") for pid in pids):
        with contextlib.suppress(OSError):
            namespace = (process / "ns/mnt").stat().st_ino
            if namespace not in known_namespaces:
                mounts |= parse_mounts(_text(process / "mountinfo"))
                known_namespaces.add(namespace)
    return mounts


def parse_mounts(mountinfo: str) -> dict[int, Mount]:
    """Parse a /proc/PID/mountinfo: mounts by id."""
    mounts = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        number, _, device, _, point, *_ = before.split(" ")
        major, minor = device.split(":")
        mounts[int(number)] = Mount(after.split(" ")[0], point, (int(major), int(minor)))
    return mounts


def _task(pid: int, *, mounts: Mapping[int, Mount], listed: set[int]) -> Task | None:
    process = Path(f"/proc/{pid}")
    status = parse_status(_text(process / "status"))
    if not status:
        return None
    maps = _text(process / "maps")
    return Task(
        pid=_last_number(status["NSpid"]),
        command=status["Name"],
        tracer=_inside(int(status["TracerPid"])) if status["TracerPid"] != "0" else 0,
        dead_leader=status["State"].startswith("Z") and int(status["Threads"]) > 1,
        namespaces=dict(_namespaces(process)),
        descriptors=tuple(_descriptors(process, mounts=mounts, listed=listed)),
        mapped=tuple(mapped_paths(maps)),
        mapped_files=tuple(_mapped_files(process, maps)),
        kept_bytes=_kept_bytes(process, status, maps),
    )


def parse_status(text: str) -> dict[str, str]:
    """Parse a /proc/PID/status."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def mapped_paths(maps: str) -> list[str]:
    """Return the names of mapped devices, secret memory and anonymous inodes, each once."""
    names = {area.name for area in mappings.areas(maps)}
    return sorted(name for name in names if name.startswith(("/dev/", "/secretmem", "anon_inode:")))


def _mapped_files(process: Path, maps: str) -> Iterator[MappedFile]:
    """Yield each deleted file once, as shared if one of its mappings is."""
    areas: dict[tuple[str, str], mappings.Area] = {}
    for area in mappings.areas(maps):
        if area.name.endswith(DELETED):
            key = (area.device, area.inode)
            areas[key] = area if area.is_shared else areas.get(key, area)
    for area in areas.values():
        # it may be unmapped by now
        with contextlib.suppress(OSError):
            path = process / "map_files" / f"{area.start:x}-{area.end:x}"
            yield MappedFile(area.name, area.is_shared, _deleted(path.stat()))


def _kept_bytes(process: Path, status: Mapping[str, str], maps: str) -> int:
    """Read from smaps, and only where there may be much.

    For smaps the kernel walks every page (8 ms for 256 MiB), and mmap(2) of the process waits.
    """
    locked_or_huge = (
        sum(_kilobytes(status.get(name, "")) for name in ("VmLck", "HugetlbPages")) << 10
    )
    areas = mappings.areas(maps)
    writable = sum(area.end - area.start for area in areas if area.is_writable_copy)
    if locked_or_huge + writable < LEAST_KEPT_BYTES:
        return 0
    return lazy.bytes_in_images(_text(process / "smaps"))


def _kilobytes(value: str) -> int:
    return int(value.removesuffix(" kB") or 0)


def _namespaces(process: Path) -> Iterator[tuple[str, int]]:
    for name in NAMESPACES:
        # a zombie has none, and this kernel may not have it
        with contextlib.suppress(OSError):
            yield name, (process / "ns" / name).stat().st_ino


def _descriptors(
    process: Path, *, mounts: Mapping[int, Mount], listed: set[int]
) -> Iterator[Descriptor]:
    with contextlib.suppress(OSError):
        for entry in os.scandir(process / "fd"):
            # it may be closed by now
            with contextlib.suppress(OSError):
                yield _descriptor(process, int(entry.name), mounts=mounts, listed=listed)


def _descriptor(
    process: Path, number: int, *, mounts: Mapping[int, Mount], listed: set[int]
) -> Descriptor:
    link = process / "fd" / str(number)
    target = str(link.readlink())
    socket = _SOCKET.match(target)
    if socket is not None:
        unlisted = int(socket[1]) not in listed
        kind = pidfds.socket_of(int(process.name), number) if unlisted else None
        return Descriptor(number, target, socket=kind)
    details = _text(process / "fdinfo" / str(number))
    mount_id = re.search(r"^mnt_id:\s*(\d+)", details, re.MULTILINE)
    mount = 0 if mount_id is None else int(mount_id[1])
    is_local = target.startswith("/") and not _is_remote(mounts.get(mount))
    device, deleted = _device_or_deleted(link, target) if is_local else (None, None)
    return Descriptor(number, target, mount, details, device, deleted)


def _is_remote(mount: Mount | None) -> bool:
    return mount is not None and mount.kind.partition(".")[0] in _REMOTE


def _device_or_deleted(link: Path, target: str) -> tuple[tuple[int, int] | None, Deleted | None]:
    status = link.stat()
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return (os.major(status.st_rdev), os.minor(status.st_rdev)), None
    if stat.S_ISREG(status.st_mode) and target.endswith(DELETED):
        return None, _deleted(status)
    return None, None


def _deleted(status: os.stat_result) -> Deleted:
    size = status.st_blocks * STAT_BLOCK_BYTES
    return Deleted(links=status.st_nlink, bytes=size, file=(status.st_dev, status.st_ino))


def _inodes(table: str, column: int) -> Iterator[int]:
    """The inodes in one of /proc/PID/net/*."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > column:
            yield int(words[column])


def _queues(process: Path, mounts: Mapping[int, Mount]) -> tuple[str, ...]:
    points = [mount.point for mount in mounts.values() if mount.kind == "mqueue"]
    with contextlib.suppress(OSError):
        queues = [q.name for point in points for q in Path(f"{process}/root{point}").iterdir()]
        return tuple(sorted(queues))
    return ()


def _inside(pid: int) -> int:
    """The pid of a process in its innermost pid namespace; 0 when it has ended."""
    status = parse_status(_text(Path(f"/proc/{pid}/status")))
    return _last_number(status["NSpid"]) if status else 0


def _last_number(words: str) -> int:
    return int(words.rsplit(maxsplit=1)[-1])


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""
