import threading
from pathlib import Path

import pytest

from transship.lab.cache import cache_root, digest, ensure_entry


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_an_entry_is_made_once() -> None:
    made: list[Path] = []

    def make(draft: Path) -> None:
        made.append(draft)
        (draft / "file").write_text("x")

    first, second = ensure_entry("thing", make), ensure_entry("thing", make)
    assert first == second == cache_root() / "thing"
    assert (first / "file").read_text() == "x"
    assert len(made) == 1


def test_a_failure_leaves_no_entry_and_no_draft() -> None:
    def fail(draft: Path) -> None:
        (draft / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        ensure_entry("thing", fail)
    assert [path.name for path in cache_root().iterdir()] == ["locks"]


def test_the_draft_of_a_crashed_maker_is_removed() -> None:
    stale = cache_root() / ".thing.abc"
    stale.mkdir(parents=True)
    ensure_entry("thing", lambda draft: None)
    assert not stale.exists()


def test_two_that_want_the_same_entry_make_it_once() -> None:
    made: list[Path] = []
    started, go_on = threading.Event(), threading.Event()

    def make(draft: Path) -> None:
        made.append(draft)
        started.set()
        go_on.wait(5)

    first = threading.Thread(target=ensure_entry, args=("thing", make))
    first.start()
    started.wait(5)
    second = threading.Thread(target=ensure_entry, args=("thing", make))
    second.start()
    go_on.set()
    first.join(5)
    second.join(5)
    assert len(made) == 1


def test_a_digest_tells_apart_what_only_splits_differently() -> None:
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])
    assert digest([b"ab"]) == digest([b"ab"])
