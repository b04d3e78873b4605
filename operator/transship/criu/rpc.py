"""CRIU's RPC messages as bytes: the few of them that Transship sends and reads. Pure.

The format is protocol buffers; field numbers are those of CRIU's images/rpc.proto. RPC is used
instead of the command line because only RPC has orphan pseudo-terminals, reports an error message,
and waits at `post-dump` for a reply. Standard library only: the gate imports it.
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
    """Define a dataclass field with its number in the message."""
    return field(default=None, metadata={"number": number})


@dataclass(frozen=True)
class Features:
    memory_tracking: bool | None = numbered(1)
    lazy_pages: bool | None = numbered(2)


@dataclass(frozen=True)
class InheritedFile:
    """inherit_fd: an inherited descriptor that CRIU uses for the file `key` of the images."""

    key: str | None = numbered(1)
    fd: int | None = numbered(2)


@dataclass(frozen=True)
class Options:
    """criu_opts; None omits a field, for CRIU's default."""

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
    config_file: str | None = numbered(51)
    """For the few options that RPC does not have."""
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
class RestoreDone:
    """criu_resp to a restore, which the gate sends in place of CRIU."""

    kind: Kind | None = numbered(1)
    success: bool | None = numbered(2)

    def encode(self) -> bytes:
        return _encode(self)


@dataclass(frozen=True)
class Response:
    """The part of criu_resp that is read."""

    kind: int
    success: bool
    error: str = ""
    script: str = ""
    """Of a notification: the script whose turn it is; CRIU waits for the reply."""
    pid: int = 0
    """Of some notifications: the container's process 1."""
    features: Features = Features()
    version: tuple[int, int, int] = (0, 0, 0)


def decode(message: bytes) -> Response:
    """Decode a response. Raises TransshipError."""
    try:
        return _response(parse(message))
    except (IndexError, ValueError, AttributeError, TypeError) as e:
        raise TransshipError("reading CRIU's answer: malformed message") from e


def kind_of(request: bytes) -> int:
    """Return the criu_req_type of a request. Raises IndexError or ValueError."""
    return number_in(parse(request), 1)


def is_success(reply: bytes) -> bool:
    """Whether a reply to a notification says success. Raises IndexError or ValueError."""
    return bool(number_in(parse(reply), 3))


def with_options(request: bytes, more: Options) -> bytes:
    """Add options to a request.

    An option that it has already is replaced and a list gets longer: when a field of a protocol
    buffer comes twice, the last one counts.
    """
    options = _bytes(parse(request), 2) + _encode(more)
    head = Request(kind=Kind(kind_of(request))).encode()
    return head + varint(2 << 3 | BYTES) + varint(len(options)) + options


Parsed = dict[int, "int | bytes"]


def _response(message: Parsed) -> Response:
    notify, features, version = (_inner(message, number) for number in (5, 8, 10))
    return Response(
        kind=number_in(message, 1),
        success=bool(number_in(message, 2)),
        error=_bytes(message, 9).decode(errors="replace"),
        script=_bytes(notify, 1).decode(),
        pid=number_in(notify, 2),
        features=Features(*(bool(number_in(features, number)) for number in (1, 2))),
        version=(number_in(version, 1), number_in(version, 2), number_in(version, 4)),
    )


def number_in(message: Parsed, number: int) -> int:
    """Return the value of a field, 0 when it is missing. Raises ValueError when it is no number."""
    value = message.get(number, 0)
    if isinstance(value, bytes):
        raise ValueError(number)  # noqa: TRY004 - one kind of error for the caller
    return value


def _bytes(message: Parsed, number: int) -> bytes:
    value = message.get(number, b"")
    if isinstance(value, int):
        raise ValueError(number)  # noqa: TRY004 - one kind of error for the caller
    return value


def _inner(message: Parsed, number: int) -> Parsed:
    return parse(_bytes(message, number))


def _encode(message: Any) -> bytes:
    return b"".join(_fields(message))


def _fields(message: Any) -> Iterator[bytes]:
    for entry in fields(message):
        value = getattr(message, entry.name)
        if value is None:
            continue
        number = entry.metadata["number"]
        for item in value if isinstance(value, tuple) else (value,):
            yield _field(number, item)


def _field(number: int, value: Any) -> bytes:
    # bool and IntEnum are int
    if isinstance(value, int):
        return number_field(number, value)
    return bytes_field(number, value.encode() if isinstance(value, str) else _encode(value))


def varint(value: int) -> bytes:
    """Encode a number; a negative int32 takes ten bytes."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def parse(message: bytes) -> Parsed:
    """Return the fields by number, of a repeated one the last. Raises IndexError or ValueError."""
    return {number: value for number, value, _ in split(message)}


def split(message: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Yield number, value and bytes of each field in order. Raises IndexError or ValueError."""
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
