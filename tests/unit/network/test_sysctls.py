from __future__ import annotations

from pathlib import Path

import pytest

from transship.common.errors import TransshipError
from transship.network import sysctls


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysctls, "ROOT", tmp_path)
    for link in ("all", "eth0"):
        (tmp_path / "ipv4/conf" / link).mkdir(parents=True)
        (tmp_path / "ipv4/conf" / link / "rp_filter").write_text("0\n")
    return tmp_path


def test_settings_are_written_and_those_that_the_kernel_lacks_are_skipped(root: Path) -> None:
    sysctls.write({"ipv4/conf/eth0/rp_filter": 1, "mptcp/enabled": 0})
    assert (root / "ipv4/conf/eth0/rp_filter").read_text() == "1"
    assert not (root / "mptcp").exists()


def test_a_setting_that_is_refused_is_named(root: Path) -> None:
    (root / "ipv4/conf/eth0/forwarding").mkdir()
    with pytest.raises(TransshipError, match="net/ipv4/conf/eth0/forwarding to 1"):
        sysctls.write({"ipv4/conf/eth0/forwarding": 1})


@pytest.mark.parametrize(
    ("of_all", "of_link", "loosened"),
    [(0, 0, False), (1, 0, True), (0, 1, True), (2, 1, False), (0, 2, False)],
)
def test_only_strict_filtering_of_the_underlay_is_loosened(
    root: Path, of_all: int, of_link: int, loosened: bool
) -> None:
    sysctls.write({"ipv4/conf/all/rp_filter": of_all, "ipv4/conf/eth0/rp_filter": of_link})
    expected = {"ipv4/conf/eth0/rp_filter": 2} if loosened else {}
    assert sysctls.loosened("eth0") == expected


def test_only_the_underlay_and_one_unavoidable_setting_of_all_are_touched() -> None:
    elsewhere = [key for key in sysctls.of_underlay("eth0") if "/eth0/" not in key]
    assert elsewhere == ["ipv4/conf/all/send_redirects"]
