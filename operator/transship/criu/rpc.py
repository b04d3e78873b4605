"""CRIU's RPC messages as bytes: the few of them that Transship sends and reads. Pure.

The format is protocol buffers; field numbers are those of CRIU's images/rpc.proto. RPC is used
instead of the command line because only it has orphan pseudo-terminals, reports the port of a page
server, says in words what failed, and stops at `post-dump` for an answer.
"""

# ruff: noqa: RUF009 - numbered() is a field specifier

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

from transship.common.errors import TransshipError

VARINT = 0
BYTES = 2
FIXED_SIZES = {1: 8, 5: 4}
MAXIMUM_SHIFT = 63


class Kind(IntEnum):
    """criu_req_type."""

    DUMP = 1
    RESTORE = 2
    NOTIFY = 6
    FEATURE_CHECK = 9
    VERSION = 10


class CgroupMode(IntEnum):
    IGNORE = 0


class NetworkLock(IntEnum):
    SKIP = 3


def numbered(number: int) -> Any:
    """Give a dataclass's field its number on the wire."""
    return field(default=None, metadata={"number": number})


@dataclass(frozen=True)
class Features:
    memory_tracking: bool | None = numbered(1)
    lazy_pages: bool | None = numbered(2)


@dataclass(frozen=True)
class InheritedFile:
    """What CRIU takes for a file of the images: a descriptor that it has inherited itself."""

    key: str | None = numbered(1)
    fd: int | None = numbered(2)


@dataclass(frozen=True)
class Options:
    """criu_opts; None is left out, which is CRIU's own default."""

    images_dir_fd: int | None = numbered(1)
    pid: int | None = numbered(2)
    leave_running: bool | None = numbered(3)
    external_unix_sockets: bool | None = numbered(4)
    tcp_established: bool | None = numbered(5)
    file_locks: bool | None = numbered(8)
    log_level: int | None = numbered(9)
    log_file: str | None = numbered(10)
    notify_scripts: bool | None = numbered(12)
    root: str | None = numbered(13)
    work_dir_fd: int | None = numbered(17)
    link_remap: bool | None = numbered(18)
    manage_cgroups: bool | None = numbered(24)
    inherited: tuple[InheritedFile, ...] | None = numbered(27)
    cgroup_mode: CgroupMode | None = numbered(34)
    ghost_limit: int | None = numbered(35)
    external: tuple[str, ...] | None = numbered(37)
    freeze_cgroup: str | None = numbered(44)
    timeout_seconds: int | None = numbered(45)
    lazy_pages: bool | None = numbered(48)
    orphan_pts_master: bool | None = numbered(50)
    config_file: str | None = numbered(51)  # for the few options that RPC does not have
    network_lock: NetworkLock | None = numbered(64)


@dataclass(frozen=True)
class Request:
    """criu_req."""

    kind: Kind | None = numbered(1)
    options: Options | None = numbered(2)
    notify_success: bool | None = numbered(3)
    features: Features | None = numbered(5)
    pid: int | None = numbered(6)

    def encode(self) -> bytes:
        return _encode(self)


@dataclass(frozen=True)
class Answer:
    """criu_resp, where Transship stands for CRIU."""

    kind: Kind | None = numbered(1)
    success: bool | None = numbered(2)

    def encode(self) -> bytes:
        return _encode(self)


@dataclass(frozen=True)
class Response:
    """criu_resp: what of it is read."""

    kind: int
    success: bool
    error: str = ""
    notice: str = ""  # the name of the script that CRIU waits for
    pid: int = 0  # with some notices: the container's process 1
    features: Features = Features()
    version: tuple[int, int, int] = (0, 0, 0)


def decode(message: bytes) -> Response:
    """Read a response. Raises TransshipError when it is none."""
    try:
        return _response(parse(message))
    except (IndexError, ValueError, AttributeError, TypeError) as e:
        raise TransshipError("reading CRIU's answer: malformed message") from e


def kind_of(request: bytes) -> int:
    """criu_req_type of a request. Raises IndexError or ValueError when it is none."""
    return number_in(parse(request), 1)


def agrees(answer: bytes) -> bool:
    """Whether an answer to a notice is a yes. Raises IndexError or ValueError when it is none."""
    return bool(number_in(parse(answer), 3))


def with_options(request: bytes, more: Options) -> bytes:
    """Add options to a request; one that it has already is replaced, a list is made longer.

    That is how protocol buffers are merged: of a field that comes twice, the last one counts.
    """
    options = _bytes(parse(request), 2) + _encode(more)
    head = Request(kind=Kind(kind_of(request))).encode()
    return head + varint(2 << 3 | BYTES) + varint(len(options)) + options


Parsed = dict[int, "int | bytes"]


def _response(seen: Parsed) -> Response:
    notice, features, version = (_inner(seen, number) for number in (5, 8, 10))
    return Response(
        kind=number_in(seen, 1),
        success=bool(number_in(seen, 2)),
        error=_bytes(seen, 9).decode(errors="replace"),
        notice=_bytes(notice, 1).decode(),
        pid=number_in(notice, 2),
        features=Features(*(bool(number_in(features, number)) for number in (1, 2))),
        version=(number_in(version, 1), number_in(version, 2), number_in(version, 4)),
    )


def number_in(seen: Parsed, number: int) -> int:
    """A number's value, 0 when it is missing. Raises ValueError when it is none."""
    value = seen.get(number, 0)
    if isinstance(value, bytes):
        raise ValueError(number)  # noqa: TRY004 - the caller wants one kind of error
    return value


def _bytes(seen: Parsed, number: int) -> bytes:
    value = seen.get(number, b"")
    if isinstance(value, int):
        raise ValueError(number)  # noqa: TRY004 - the caller wants one kind of error
    return value


def _inner(seen: Parsed, number: int) -> Parsed:
    return parse(_bytes(seen, number))


def _encode(message: Any) -> bytes:
    return b"".join(_fields(message))


def _fields(message: Any) -> Iterator[bytes]:
    for entry in fields(message):
        value = getattr(message, entry.name)
        if value is None:
            continue
        number = entry.metadata["number"]
        for one in value if isinstance(value, tuple) else (value,):
            yield _field(number, one)


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, int):  # bool and IntEnum too
        return number_field(number, value)
    return bytes_field(number, value.encode() if isinstance(value, str) else _encode(value))


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative int32 goes as ten bytes
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def parse(message: bytes) -> Parsed:
    """Fields by number, of one repeated the last. Raises IndexError or ValueError."""
    return {number: value for number, value, _ in split(message)}


def split(message: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Number, value and bytes of each field in order. Raises IndexError or ValueError."""
    at = 0
    while at < len(message):
        begin = at
        tag, at = read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = read_varint(message, at)
            yield number, value, message[begin:at]
            continue
        size, at = read_varint(message, at) if wire == BYTES else (FIXED_SIZES.get(wire, -1), at)
        if size < 0 or at + size > len(message):
            raise ValueError(wire)
        at += size
        yield number, message[at - size : at], message[begin:at]


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > MAXIMUM_SHIFT:
            raise ValueError(shift)
