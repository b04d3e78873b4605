"""What the processes of a container have: descriptors, sockets, mappings, namespaces, tracers.

Read from outside, from /proc, while the container runs: nothing in it is disturbed, and what ends
meanwhile is left out. criu.obstacles judges what is found here. Never on an event loop: it takes
some milliseconds per hundred descriptors.
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

# stat() of a file on these waits for a server, perhaps for ever
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse")
_TABLES = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6",
           "packet", "netlink", "unix")  # fmt: skip
DELETED = " (deleted)"
STAT_BLOCK_BYTES = 512
LEAST_KEPT_BYTES = 64 << 20
"""Of memory of one process that may be in CRIU's images: less is not looked at."""

_SOCKET = re.compile(r"^socket:\[(\d+)\]$")


@dataclass(frozen=True)
class Deleted:
    """What is left of a file that has lost the name by which it was opened."""

    links: int
    """Its other names."""
    bytes: int
    """On the disk: holes do not count."""
    file: tuple[int, int] = (0, 0)
    """Device and inode: many descriptors and mappings can be of one file."""


@dataclass(frozen=True)
class MappedFile:
    """What a process has mapped of a file without a name, memory files among them."""

    target: str
    is_shared: bool
    deleted: Deleted


@dataclass(frozen=True)
class Descriptor:
    """One open file, as /proc/PID/fd and fdinfo tell it."""

    number: int
    target: str
    mount: int = 0
    details: str = ""
    device: tuple[int, int] | None = None
    """Of a character or block device."""
    deleted: Deleted | None = None
    """Of a plain file whose name was removed."""
    socket: Socket | None = None
    """Of a socket that the tables of its network namespace do not list."""

    @property
    def socket_inode(self) -> int | None:
        found = _SOCKET.match(self.target)
        return None if found is None else int(found[1])


@dataclass(frozen=True)
class Task:
    """A process of a container. `pid` and `tracer` are what the container calls them."""

    pid: int
    command: str
    tracer: int = 0
    dead_leader: bool = False
    """Its main thread has ended, others run on."""
    namespaces: Mapping[str, int] = field(default_factory=dict)
    descriptors: tuple[Descriptor, ...] = ()
    mapped: tuple[str, ...] = ()
    """What its mappings are of, where that is a path or an anonymous inode."""
    mapped_files: tuple[MappedFile, ...] = ()
    kept_bytes: int = 0
    """Private memory that CRIU does not leave to be restored lazily; 0 where it is little."""


@dataclass(frozen=True)
class Mount:
    kind: str
    point: str
    device: tuple[int, int]


@dataclass(frozen=True)
class Census:
    """A container at one moment; the first task is its process 1."""

    tasks: tuple[Task, ...]
    mounts: Mapping[int, Mount] = field(default_factory=dict)
    """Of every mount namespace that a task is in."""
    given: frozenset[str] = frozenset()
    """Where the runtime has mounted something: volumes can be of any kind."""
    user_namespace: int = 0
    """The node's."""
    peers: Mapping[int, int] = field(default_factory=dict)
    """Inodes of connected Unix sockets of its network namespace, and those of their peers."""
    queues: tuple[str, ...] = ()
    """POSIX message queues that exist in its IPC namespace."""


def take(pids: Iterable[int], *, peers: Mapping[int, int], given: Iterable[str] = ()) -> Census:
    """Look at these processes, as this process's pid namespace counts them."""
    ordered = sorted(pids, key=_inside)
    if not ordered:
        return Census(tasks=())
    first = Path(f"/proc/{ordered[0]}")
    mounts = _all_mounts(ordered)
    listed = {inode for name in _TABLES for inode in _inodes(_text(first / "net" / name), name)}
    tasks = tuple(filter(None, (_task(pid, mounts=mounts, listed=listed) for pid in ordered)))
    return Census(
        tasks=tasks,
        mounts=mounts,
        given=frozenset(given),
        user_namespace=Path("/proc/self/ns/user").stat().st_ino,
        peers=peers,
        queues=_queues(first, mounts),
    )


def _all_mounts(pids: Iterable[int]) -> dict[int, Mount]:
    found: dict[int, Mount] = {}
    seen: set[int] = set()
    for process in (Path(f"/proc/{pid}") for pid in pids):
        with contextlib.suppress(OSError):
            namespace = (process / "ns/mnt").stat().st_ino
            if namespace not in seen:
                found |= parse_mounts(_text(process / "mountinfo"))
                seen.add(namespace)
    return found


def parse_mounts(mountinfo: str) -> dict[int, Mount]:
    found = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        number, _, device, _, point, *_ = before.split(" ")
        major, minor = device.split(":")
        found[int(number)] = Mount(after.split(" ")[0], point, (int(major), int(minor)))
    return found


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
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def mapped_paths(maps: str) -> list[str]:
    """Each once. Without the plain files of libraries and programs, which any process has."""
    words = (line.split(None, 5) for line in maps.splitlines())
    found = {row[5] for row in words if len(row) > 5}
    return sorted(path for path in found if path.startswith(("/dev/", "/secretmem", "anon_inode:")))


def _mapped_files(process: Path, maps: str) -> Iterator[MappedFile]:
    """Each file once, shared if one of its mappings is."""
    found: dict[tuple[str, str], mappings.Area] = {}
    for each in mappings.areas(maps):
        if each.name.endswith(DELETED):
            key = (each.device, each.inode)
            found[key] = each if each.is_shared else found.get(key, each)
    for each in found.values():
        with contextlib.suppress(OSError):  # unmapped meanwhile
            path = process / "map_files" / f"{each.start:x}-{each.end:x}"
            yield MappedFile(each.name, each.is_shared, _left_of(path.stat()))


def _kept_bytes(process: Path, status: Mapping[str, str], maps: str) -> int:
    """Read from smaps, and only where there may be much.

    For smaps the kernel looks at every page (8 ms for 256 MiB); the process's own mmap(2) waits.
    """
    told = sum(_kilobytes(status.get(name, "")) for name in ("VmLck", "HugetlbPages")) << 10
    areas = mappings.areas(maps)
    written = sum(each.end - each.start for each in areas if each.is_writable_copy)
    if told + written < LEAST_KEPT_BYTES:
        return 0
    return lazy.bytes_in_images(_text(process / "smaps"))


def _kilobytes(value: str) -> int:
    return int(value.removesuffix(" kB") or 0)


def _namespaces(process: Path) -> Iterator[tuple[str, int]]:
    for name in NAMESPACES:
        with contextlib.suppress(OSError):  # of a zombie, or not of this kernel
            yield name, (process / "ns" / name).stat().st_ino


def _descriptors(
    process: Path, *, mounts: Mapping[int, Mount], listed: set[int]
) -> Iterator[Descriptor]:
    with contextlib.suppress(OSError):
        for entry in os.scandir(process / "fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
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
    found = re.search(r"^mnt_id:\s*(\d+)", details, re.MULTILINE)
    mount = 0 if found is None else int(found[1])
    known = target.startswith("/") and not _remote(mounts.get(mount))
    device, deleted = _looked_at(link, target) if known else (None, None)
    return Descriptor(number, target, mount, details, device, deleted)


def _remote(mount: Mount | None) -> bool:
    return mount is not None and mount.kind.partition(".")[0] in _REMOTE


def _looked_at(link: Path, target: str) -> tuple[tuple[int, int] | None, Deleted | None]:
    status = link.stat()
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return (os.major(status.st_rdev), os.minor(status.st_rdev)), None
    if stat.S_ISREG(status.st_mode) and target.endswith(DELETED):
        return None, _left_of(status)
    return None, None


def _left_of(status: os.stat_result) -> Deleted:
    size = status.st_blocks * STAT_BLOCK_BYTES
    return Deleted(links=status.st_nlink, bytes=size, file=(status.st_dev, status.st_ino))


def _inodes(table: str, name: str) -> Iterator[int]:
    """The inodes in one of /proc/PID/net/*; each table has its own column for them."""
    column = {"packet": 8, "netlink": 9, "unix": 6}.get(name, 9)
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > column:
            yield int(words[column])


def _queues(process: Path, mounts: Mapping[int, Mount]) -> tuple[str, ...]:
    points = [mount.point for mount in mounts.values() if mount.kind == "mqueue"]
    with contextlib.suppress(OSError):
        return tuple(
            sorted(
                queue.name for each in points for queue in Path(f"{process}/root{each}").iterdir()
            )
        )
    return ()


def _inside(pid: int) -> int:
    """What the innermost pid namespace of a process calls it; 0 when it is gone."""
    status = parse_status(_text(Path(f"/proc/{pid}/status")))
    return _last_number(status["NSpid"]) if status else 0


def _last_number(words: str) -> int:
    return int(words.rsplit(maxsplit=1)[-1])


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""
