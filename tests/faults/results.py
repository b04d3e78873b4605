"""Results of cases: appended to a file one by one, published as JSON and as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import starmap
from pathlib import Path

from faults.cases import Case

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
PLAIN = {"ok", "not reached"}

Key = tuple[str, str, str]


@dataclass(frozen=True)
class CaseResult:
    """One object of docs/reliability.json."""

    step: str
    fault: str
    strategy: str
    result: str
    detail: str

    @property
    def key(self) -> Key:
        return self.step, self.fault, self.strategy


def case_result(case: Case, *, result: str, detail: str) -> CaseResult:
    return CaseResult(*case.key, result=result, detail=detail)


def read(path: Path) -> dict[Key, CaseResult]:
    """The results so far. A later line replaces an earlier one of the same case."""
    if not path.exists():
        return {}
    lines = (CaseResult(**json.loads(text)) for text in path.read_text().splitlines())
    return {line.key: line for line in lines}


def append(path: Path, result: CaseResult) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def publish(results: Mapping[Key, CaseResult], cases: Iterable[Case], *, docs: Path) -> None:
    """Write docs/reliability.json, and the tables between the marks of docs/reliability.md."""
    ordered = [results[case.key] for case in cases if case.key in results]
    text = ",\n".join(json.dumps(asdict(result), ensure_ascii=False) for result in ordered)
    (docs / "reliability.json").write_text(f"[\n{text}\n]\n")
    page = docs / "reliability.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{tables(ordered)}\n{END}{after}")


def tables(all_results: Iterable[CaseResult]) -> str:
    """One table per strategy: a row for each fault, a column for each step."""
    results = list(all_results)
    by_strategy: dict[str, list[CaseResult]] = {}
    for result in results:
        by_strategy.setdefault(result.strategy, []).append(result)
    return "\n\n".join([_summary(results), *starmap(_table, by_strategy.items())])


def _summary(results: list[CaseResult]) -> str:
    passed = sum(result.result == "ok" for result in results)
    return f"{len(results)} cases, {passed} of them ok."


def _table(strategy: str, results: list[CaseResult]) -> str:
    steps = list(dict.fromkeys(result.step for result in results))
    cells = {(result.fault, result.step): _cell(result.result) for result in results}
    rows = [f"| {strategy} | {' | '.join(steps)} |", f"|---|{'---|' * len(steps)}"]
    for fault in dict.fromkeys(result.fault for result in results):
        row = [cells.get((fault, step), "") for step in steps]
        rows.append(f"| {fault} | {' | '.join(row)} |")
    return "\n".join(rows)


def _cell(result: str) -> str:
    return result if result in PLAIN else f"**{result}**"
