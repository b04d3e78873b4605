"""Results of cases: appended to a file as they come, written as JSON and as a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from table import Case

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
MARKS = {"ok": "ok", "not reached": "not reached"}

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Line:
    """One line of docs/reliability.json."""

    step: str
    fault: str
    strategy: str
    result: str
    detail: str

    @property
    def key(self) -> Key:
        return self.step, self.fault, self.strategy


def line(case: Case, *, result: str, detail: str) -> Line:
    return Line(*case.key, result=result, detail=detail)


def read(path: Path) -> dict[Key, Line]:
    """What is known, a later line in place of an earlier one of the same case."""
    if not path.exists():
        return {}
    lines = (Line(**json.loads(text)) for text in path.read_text().splitlines())
    return {each.key: each for each in lines}


def append(path: Path, done: Line) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(done)) + "\n")


def publish(done: Mapping[Key, Line], cases: Iterable[Case], *, docs: Path) -> None:
    """Write docs/reliability.json, and the table between the marks of docs/reliability.md."""
    ordered = [done[case.key] for case in cases if case.key in done]
    text = ",\n".join(json.dumps(asdict(each), ensure_ascii=False) for each in ordered)
    (docs / "reliability.json").write_text(f"[\n{text}\n]\n")
    page = docs / "reliability.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{tables(ordered)}\n{END}{after}")


def tables(lines: Iterable[Line]) -> str:
    """One table per strategy: a row for each fault, a column for each step."""
    lines = list(lines)
    parts = [_summary(lines)]
    for strategy in dict.fromkeys(each.strategy for each in lines):
        parts.append(_table(strategy, [each for each in lines if each.strategy == strategy]))
    return "\n\n".join(parts)


def _summary(lines: list[Line]) -> str:
    good = sum(each.result == "ok" for each in lines)
    return f"{len(lines)} cases, {good} of them ok."


def _table(strategy: str, lines: list[Line]) -> str:
    steps = list(dict.fromkeys(each.step for each in lines))
    results = {(each.fault, each.step): each.result for each in lines}
    rows = [f"| {strategy} | {' | '.join(steps)} |", f"|---|{'---|' * len(steps)}"]
    for fault in dict.fromkeys(each.fault for each in lines):
        cells = [_mark(results.get((fault, step))) for step in steps]
        rows.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _mark(result: str | None) -> str:
    return "" if result is None else MARKS.get(result, f"**{result}**")
