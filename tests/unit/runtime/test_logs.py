from __future__ import annotations

import asyncio
import random
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from transship.runtime import logs
from transship.runtime.logs import LogLine


def line(second: int, text: str, *, stream: str = "stdout", flag: str = "F") -> str:
    return f"2026-01-31T12:00:{second:02}.123456789+00:00 {stream} {flag} {text}\n"


def test_a_line_is_time_stream_and_text() -> None:
    actual = logs.parse(line(1, "two words ", stream="stderr").encode())
    assert actual == LogLine("2026-01-31T12:00:01.123456789+00:00", "stderr", False, "two words ")
    assert actual.moment == datetime(2026, 1, 31, 12, 0, 1, 123456, UTC)


def test_a_piece_of_a_long_line_is_partial() -> None:
    actual = logs.parse(line(1, "piece", flag="P").encode())
    assert actual is not None
    assert actual.partial


def test_bytes_that_are_no_text_are_shown_all_the_same() -> None:
    actual = logs.parse(b"2026-01-31T12:00:01+00:00 stdout F \xff\n")
    assert actual is not None
    assert actual.text == "�"


@pytest.mark.parametrize("raw", [b"", b"\n", b"2026-01-31T12:00:01+00:00 stdo", b"a b c d"])
def test_what_is_no_whole_line_is_left_out(raw: bytes) -> None:
    assert logs.parse(raw) is None


def test_tail_and_since_narrow_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "container.log"
    path.write_text("".join(line(second, str(second)) for second in range(10)))
    since = datetime(2026, 1, 31, 12, 0, 7, tzinfo=UTC)
    assert [actual.text for actual in logs.read(path, tail=2)] == ["8", "9"]
    assert [actual.text for actual in logs.read(path, since=since)] == ["7", "8", "9"]


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list(logs.read(tmp_path / "none")) == []


async def test_following_goes_on_over_a_replaced_file_until_the_end(tmp_path: Path) -> None:
    path, ended = tmp_path / "container.log", asyncio.Event()
    path.write_text(line(1, "old") + line(2, "one"))
    actual: list[str] = []
    async with asyncio.timeout(5):
        async for entries in logs.follow(path, ended=ended, tail=1):
            (entry,) = entries
            actual.append(entry.text)
            match entry.text:
                case "one":
                    with path.open("a") as file:
                        file.write(line(3, "two") + line(4, "half")[:-3])
                case "two":
                    draft = tmp_path / "draft"
                    draft.write_text(line(5, "three"))
                    draft.replace(path)
                case _:
                    ended.set()
    assert actual == ["one", "two", "three"]


async def test_following_waits_for_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    path, ended = tmp_path / "container.log", asyncio.Event()
    following = logs.follow(path, ended=ended)
    async with asyncio.timeout(5):
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        path.write_text(line(1, "first"))
        assert [entry.text for entry in await first] == ["first"]
    await following.aclose()


async def followed(
    path: Path, *, tail: int | None = None, since: datetime | None = None
) -> list[str]:
    ended = asyncio.Event()
    ended.set()
    batches = logs.follow(path, ended=ended, tail=tail, since=since)
    return [entry.text async for entries in batches for entry in entries]


def some_log(chance: random.Random) -> bytes:
    """Lines out of order, torn ones, pieces, empty ones, one perhaps without its end."""
    whole = [
        line(chance.randrange(60), "x" * chance.randrange(40), flag=chance.choice("FP")).encode()
        for _ in range(chance.randrange(12))
    ]
    lines = [each if chance.random() > 0.2 else each[chance.randrange(36, 80) :] for each in whole]
    lines = [each for each in lines if len(each) != 1 or chance.random() > 0.5]
    text = b"".join(lines)
    return text[: len(text) - chance.choice([0, 0, 1, 5, 40])] if text else text


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 1 << 18])
async def test_the_end_is_the_same_as_if_all_had_been_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(logs, "BLOCK_BYTES", block_bytes)
    path, chance = tmp_path / "container.log", random.Random(block_bytes)
    since = datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)
    for _ in range(30):
        path.write_bytes(some_log(chance))
        with path.open("rb") as file:
            every = [actual for raw in file if (actual := logs.parse(raw)) is not None]
        newer = [actual for actual in every if actual.moment >= since]
        assert list(logs.read(path)) == every
        for tail in (0, 1, 3, 100):
            assert list(logs.read(path, tail=tail)) == every[len(every) - min(tail, len(every)) :]
            last = newer[len(newer) - min(tail, len(newer)) :]
            assert list(logs.read(path, tail=tail, since=since)) == last
        ended = [
            actual for raw in path.read_bytes().split(b"\n")[:-1] if (actual := logs.parse(raw))
        ]
        for tail in (0, 2, 100):
            last = ended[len(ended) - min(tail, len(ended)) :]
            texts = [actual.text for actual in last if actual.moment >= since]
            assert await followed(path, tail=tail, since=since) == texts


def with_a_hole(path: Path) -> Path:
    """A log of a TiB: whoever reads it whole is never done."""
    with path.open("wb") as file:
        file.write("".join(line(second, str(second)) for second in range(3)).encode())
        file.seek(1 << 40)
        file.write(b"\n" + "".join(line(second, str(second)) for second in range(10)).encode())
    return path


@pytest.mark.timeout(10)
async def test_of_a_large_log_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    path = with_a_hole(tmp_path / "container.log")
    assert next(logs.read(path)).text == "0"
    assert [actual.text for actual in logs.read(path, tail=2)] == ["8", "9"]
    assert await followed(path, tail=2) == ["8", "9"]


async def test_no_log_is_read_in_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, threads = tmp_path / "container.log", set()
    path.write_text("".join(line(1, str(number)) for number in range(1000)))

    def parse(raw: bytes) -> LogLine | None:
        threads.add(threading.get_ident())
        return original(raw)

    original = logs.parse
    monkeypatch.setattr(logs, "parse", parse)
    read = [entry async for entries in logs.in_batches(logs.read(path)) for entry in entries]
    assert len(read) == len(await followed(path)) == 1000
    await followed(path, tail=3)
    assert threading.get_ident() not in threads


async def test_what_was_written_just_before_the_log_was_replaced_is_not_lost(
    tmp_path: Path,
) -> None:
    path, ended, actual = tmp_path / "container.log", asyncio.Event(), []
    path.write_text(line(1, "one"))
    async with asyncio.timeout(5):
        async for entries in logs.follow(path, ended=ended):
            actual += [entry.text for entry in entries]
            if actual == ["one"]:
                with path.open("a") as file:
                    file.write(line(2, "last of the old"))
                (tmp_path / "draft").write_text(line(3, "first of the new"))
                (tmp_path / "draft").replace(path)
                ended.set()
    assert actual == ["one", "last of the old", "first of the new"]


async def test_a_line_is_given_when_it_has_its_end(tmp_path: Path) -> None:
    path, ended, actual = tmp_path / "container.log", asyncio.Event(), []
    path.write_text(line(1, "one") + line(2, "two")[:-3])
    async with asyncio.timeout(5):
        async for entries in logs.follow(path, ended=ended):
            actual += [entry.text for entry in entries]
            with path.open("a") as file:
                file.write(line(2, "two")[-3:])
            ended.set()
            if len(actual) == 2:
                break
    assert actual == ["one", "two"]
