from __future__ import annotations

from pathlib import Path

import pytest

from transship.lab.nodes import limits

WITH = "Name:\tx\nCapEff:\t000001ffffffffff\n"
WITHOUT = "Name:\tx\nCapEff:\t000001fffeffffff\n"


def test_the_capability_is_read_from_the_status_of_a_process() -> None:
    assert limits.allowed(WITH)
    assert not limits.allowed(WITHOUT)


def test_a_node_of_a_machine_that_has_the_capability_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "allowed", lambda _: True)
    limits.lend(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_node_of_one_that_lacks_it_gets_library_and_wrapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "limits.so"
    built.write_bytes(b"library")
    monkeypatch.setattr(limits, "allowed", lambda _: False)
    monkeypatch.setattr(limits, "_built", lambda: built)
    root = tmp_path / "root"
    limits.lend(root)
    assert (root / limits.LIBRARY).read_bytes() == b"library"
    assert f'LD_PRELOAD="/{limits.LIBRARY}' in (root / limits.PROGRAM).read_text()
    assert (root / limits.PROGRAM).stat().st_mode & 0o777 == 0o755
