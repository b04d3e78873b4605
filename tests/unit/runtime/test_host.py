from __future__ import annotations

from pathlib import Path

import pytest

from transship.runtime import host


def test_capabilities_are_read_from_their_bits() -> None:
    status = "Name:\tx\nCapPrm:\t0000000000200001\n"
    assert host.capabilities_in(status) == {"CHOWN", "SYS_ADMIN"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The node's file system."""
    (tmp_path / "etc").mkdir()
    return tmp_path


def test_name_servers_are_the_nodes(root: Path) -> None:
    assert host.name_servers(root) == b""
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    assert host.name_servers(root) == b"nameserver 192.0.2.1\n"


def test_a_resolver_on_the_nodes_loopback_is_not_handed_on(root: Path) -> None:
    real = root / "run/systemd/resolve"
    real.mkdir(parents=True)
    (real / "stub-resolv.conf").write_text("nameserver 127.0.0.53\n")
    (real / "resolv.conf").write_text("nameserver 192.0.2.2\n")
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    assert host.name_servers(root) == b"nameserver 192.0.2.2\n"
