from __future__ import annotations

from pathlib import Path

import pytest

from transship.lab.nodes import criu_wrapper

WITH = "Name:\tx\nCapEff:\t000001ffffffffff\n"
WITHOUT = "Name:\tx\nCapEff:\t000001fffeffffff\n"


def test_the_capability_is_read_from_the_status_of_a_process() -> None:
    assert criu_wrapper.has_sys_resource(WITH)
    assert not criu_wrapper.has_sys_resource(WITHOUT)


def test_a_node_of_a_machine_that_has_the_capability_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu_wrapper, "has_sys_resource", lambda _: True)
    criu_wrapper.install(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_node_of_one_that_lacks_it_gets_library_and_wrapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "limits.so"
    built.write_bytes(b"library")
    monkeypatch.setattr(criu_wrapper, "has_sys_resource", lambda _: False)
    monkeypatch.setattr(criu_wrapper, "_ensure_library", lambda: built)
    root = tmp_path / "root"
    criu_wrapper.install(root)
    assert (root / criu_wrapper.LIBRARY).read_bytes() == b"library"
    assert f'LD_PRELOAD="/{criu_wrapper.LIBRARY}' in (root / criu_wrapper.PROGRAM).read_text()
    assert (root / criu_wrapper.PROGRAM).stat().st_mode & 0o777 == 0o755
