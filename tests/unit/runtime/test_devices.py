from __future__ import annotations

import os
from pathlib import Path

import pytest

from transship.runtime import devices, host


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "mknod", lambda path, *_rest: path.touch())
    devices.make(tmp_path)
    devices.make(tmp_path)
    return tmp_path


def test_a_prepared_directory_has_what_programs_expect(made):
    assert {"null", "zero", "urandom", "tty", "ptmx", "stdin", "shm", "pts"} <= {
        path.name for path in made.iterdir()
    }
    assert (made / "stdout").readlink() == Path("/proc/self/fd/1")


def test_a_file_of_the_container_in_it_is_noticed(made):
    assert devices.untouched(made)
    (made / "log").touch()
    assert not devices.untouched(made)


def test_capabilities_are_read_from_their_bits():
    assert host.capabilities_in("Name:\tx\nCapPrm:\t0000000000200001\n") == {"CHOWN", "SYS_ADMIN"}
