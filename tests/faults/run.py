"""`make test-faults`: run all cases, or a selection; cases with a result are not run again.

    python -m faults.run [--step S] [--fault TEXT] [--strategy S] [--again] [--labs N]
    python -m faults.run --sample [--seed N]

A sample is one case of each fault, chosen by the seed; its results are not kept. All other results
are appended to the file of --results. With --publish, docs/reliability.json and the tables in
docs/reliability.md are made from that file. Exit code 1 unless all cases are ok.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import zlib
from pathlib import Path

from faults import results
from faults.cases import Case, all_cases
from faults.labs import FaultLab, say

REPOSITORY = Path(__file__).resolve().parents[2]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", action="append", help="a step's name; can be repeated")
    parser.add_argument("--fault", action="append", help="part of a fault's name")
    parser.add_argument("--strategy", action="append")
    parser.add_argument("--sample", action="store_true", help="one case of each fault")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 16), help="of the random choice"
    )
    parser.add_argument("--limit", type=int, help="run at most so many cases")
    parser.add_argument("--again", action="store_true", help="run cases again that were not ok")
    parser.add_argument("--labs", type=int, default=1, help="how many labs run cases side by side")
    parser.add_argument("--shard", type=int, default=0, help="the number of this lab, from 1")
    parser.add_argument(
        "--name", default="faults", help="the lab's name; with --labs, a number is added"
    )
    parser.add_argument("--keep-lab", action="store_true")
    parser.add_argument("--results", type=Path, default=REPOSITORY / ".faults" / "results.jsonl")
    parser.add_argument("--publish", action="store_true", help="write docs/reliability.*")
    return parser.parse_args(words)


def selected(options: argparse.Namespace) -> list[Case]:
    """The cases to run, in all labs together."""
    cases = [case for case in all_cases() if _wanted(case, options)]
    if options.sample:
        return sample(cases, seed=options.seed)
    # shuffled, so that a part of the run covers a bit of everything
    random.Random(options.seed).shuffle(cases)
    finished = results.read(options.results)
    return [
        case
        for case in cases
        if case.key not in finished or (options.again and finished[case.key].result != "ok")
    ][: options.limit]


def sample(cases: list[Case], *, seed: int) -> list[Case]:
    """One case of each fault."""
    chance = random.Random(seed)
    by_fault: dict[str, list[Case]] = {}
    for case in cases:
        by_fault.setdefault(case.fault.name, []).append(case)
    return [chance.choice(same) for same in by_fault.values()]


def _wanted(case: Case, options: argparse.Namespace) -> bool:
    return (
        (not options.step or case.step.value in options.step)
        and (not options.fault or any(text in case.fault.name for text in options.fault))
        and (not options.strategy or case.strategy.value in options.strategy)
    )


def _is_mine(case: Case, options: argparse.Namespace) -> bool:
    """Shard by a hash of the case: the file of results changes while the labs start."""
    labs: int = options.labs
    return labs == 1 or zlib.crc32(str(case).encode()) % labs == options.shard - 1


def work(cases: list[Case], options: argparse.Namespace) -> bool:
    """Run these cases in one lab. True if all are ok."""
    all_ok = True
    with FaultLab(f"{options.name}{options.shard or ''}", keep=options.keep_lab) as lab:
        for case in cases:
            outcome = lab.run(case)
            # on a busy machine a move may end before the fault begins
            if outcome.result == "not reached":
                outcome = lab.run(case)
            all_ok = all_ok and outcome.ok
            result = results.case_result(case, result=outcome.result, detail=outcome.detail)
            if not options.sample:
                results.append(options.results, result)
            print(f"{result.result:12} {case}: {result.detail}", flush=True)
    return all_ok


def side_by_side(words: list[str], options: argparse.Namespace) -> bool:
    """Start a process for each lab: entering namespaces forks, which threads do not survive."""
    command = [sys.executable, "-m", "faults.run", *words, "--seed", str(options.seed)]
    shards = [
        subprocess.Popen([*command, "--shard", str(shard)]) for shard in range(1, options.labs + 1)
    ]
    codes = [process.wait() for process in shards]
    return not any(codes)


def main(words: list[str]) -> int:
    options = parse(words)
    cases = selected(options)
    if options.labs > 1 and not options.shard:
        say(f"{len(cases)} cases in {options.labs} labs, seed {options.seed}")
        all_ok = side_by_side(words, options)
    else:
        mine = [case for case in cases if _is_mine(case, options)]
        all_ok = work(mine, options) if mine else True
    if options.publish and not options.shard:
        results.publish(results.read(options.results), all_cases(), docs=REPOSITORY / "docs")
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
