"""`make test-faults`: the whole table, or a selection of it; what is done already is not repeated.

    python tests/faults/run.py [--step S] [--fault TEXT] [--strategy S] [--seed N] [--again]

Results are appended to the file of --results; docs/reliability.json and the table in
docs/reliability.md are made from all of them with --publish. Exit code 1 unless all are ok.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import results
from labs import FaultLab, say
from table import Case, all_cases

REPOSITORY = Path(__file__).resolve().parents[2]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", action="append", help="a step's name; can be repeated")
    parser.add_argument("--fault", action="append", help="part of a fault's name")
    parser.add_argument("--strategy", action="append")
    parser.add_argument("--seed", type=int, help="the order of the cases; else that of the table")
    parser.add_argument("--limit", type=int, help="so many cases at most")
    parser.add_argument("--again", action="store_true", help="also what is done, if it was not ok")
    parser.add_argument("--name", default="faults", help="the lab's name")
    parser.add_argument("--keep-lab", action="store_true")
    parser.add_argument("--results", type=Path, default=REPOSITORY / ".faults" / "results.jsonl")
    parser.add_argument("--publish", action="store_true", help="write docs/reliability.*")
    return parser.parse_args(words)


def selected(given: argparse.Namespace) -> list[Case]:
    cases = [case for case in all_cases() if _wanted(case, given)]
    if given.seed is not None:
        random.Random(given.seed).shuffle(cases)
    done = results.read(given.results)
    open_cases = [
        case
        for case in cases
        if case.key not in done or (given.again and done[case.key].result != "ok")
    ]
    say(f"{len(cases)} cases, {len(cases) - len(open_cases)} of them done already")
    return open_cases[: given.limit]


def _wanted(case: Case, given: argparse.Namespace) -> bool:
    return (
        (not given.step or case.step.value in given.step)
        and (not given.fault or any(text in case.breakage.name for text in given.fault))
        and (not given.strategy or case.strategy.value in given.strategy)
    )


def main() -> int:
    given = parse()
    cases = selected(given)
    if cases:
        with FaultLab(given.name, keep=given.keep_lab) as lab:
            for case in cases:
                done = lab.run(case)
                results.append(
                    given.results, results.line(case, result=done.result, detail=done.detail)
                )
                say(f"{done.result:12} {case}: {done.detail}")
    known = results.read(given.results)
    if given.publish:
        results.publish(known, list(all_cases()), docs=REPOSITORY / "docs")
    bad = [case for case in cases if known[case.key].result != "ok"]
    say(f"{len(cases) - len(bad)} of {len(cases)} ok")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
