from __future__ import annotations

import pytest

from transship.common.errors import TransshipError
from transship.criu.rpc import (
    CgroupMode,
    InheritedFile,
    Kind,
    NetworkLock,
    Options,
    Request,
    decode,
)


def test_a_request_is_encoded_field_by_field() -> None:
    assert Request(kind=Kind.DUMP).encode() == b"\x08\x01"
    assert Request(kind=Kind.NOTIFY, notify_success=True).encode() == b"\x08\x06\x18\x01"


def test_what_is_none_is_left_out_and_what_is_false_or_zero_is_sent() -> None:
    options = Options(leave_running=False, cgroup_mode=CgroupMode.IGNORE)
    assert Request(options=options).encode() == b"\x12\x05\x18\x00\x90\x02\x00"


def test_texts_lists_and_messages_are_encoded_with_their_length() -> None:
    options = Options(external=("a", "bc"), inherited=(InheritedFile(key="k", fd=7),))
    inner = b"\xda\x01\x05\x0a\x01k\x10\x07" + b"\xaa\x02\x01a" + b"\xaa\x02\x02bc"
    assert Request(options=options).encode() == b"\x12" + bytes([len(inner)]) + inner


def test_numbers_above_a_byte_take_several() -> None:
    assert Request(pid=300).encode() == b"\x30\xac\x02"
    assert (
        Request(options=Options(network_lock=NetworkLock.SKIP)).encode() == b"\x12\x03\x80\x04\x03"
    )


def test_a_negative_number_takes_ten_bytes() -> None:
    assert Request(pid=-1).encode() == b"\x30" + b"\xff" * 9 + b"\x01"


def test_a_notification_names_its_script() -> None:
    actual = decode(b"\x08\x06\x10\x01\x2a\x0b\x0a\x09post-dump")
    assert (actual.kind, actual.success, actual.script) == (Kind.NOTIFY, True, "post-dump")


def test_a_failure_carries_its_words() -> None:
    actual = decode(b"\x08\x01\x10\x00\x38\x05\x4a\x03bad")
    assert (actual.success, actual.error) == (False, "bad")


def test_a_version_is_read() -> None:
    assert decode(b"\x08\x0a\x10\x01\x52\x06\x08\x04\x10\x02\x20\x01").version == (4, 2, 1)


@pytest.mark.parametrize("message", [b"\x08", b"\x12\x7f", b"\x0a\x01a", b"\x08" + b"\xff" * 20])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(TransshipError):
        decode(message)
