"""`make test-faults`: the whole table, or a selection of it; what is done already is not repeated.

    python tests/faults/run.py [--step S] [--fault TEXT] [--strategy S] [--again] [--labs N]
    python tests/faults/run.py --sample [--seed N]

A sample is one case of each fault, chosen by the seed, and is not noted. All other results are
appended to the file of --results; docs/reliability.json and the table in docs/reliability.md are
made from them with --publish. Exit code 1 unless all cases are ok.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import zlib
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
    parser.add_argument("--sample", action="store_true", help="one case of each fault")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16), help="of the choice")
    parser.add_argument("--limit", type=int, help="so many cases at most")
    parser.add_argument("--again", action="store_true", help="also what is done, if it was not ok")
    parser.add_argument("--labs", type=int, default=1, help="so many labs work at the same time")
    parser.add_argument("--shard", type=int, default=0, help="which of them this one is")
    parser.add_argument("--name", default="faults", help="the lab's name; others add a number")
    parser.add_argument("--keep-lab", action="store_true")
    parser.add_argument("--results", type=Path, default=REPOSITORY / ".faults" / "results.jsonl")
    parser.add_argument("--publish", action="store_true", help="write docs/reliability.*")
    return parser.parse_args(words)


def selected(given: argparse.Namespace) -> list[Case]:
    """Everything that is to be done, by all labs together."""
    cases = [case for case in all_cases() if _wanted(case, given)]
    if given.sample:
        return sample(cases, seed=given.seed)
    random.Random(given.seed).shuffle(cases)  # a part of it says something of the whole
    done = results.read(given.results)
    return [
        case
        for case in cases
        if case.key not in done or (given.again and done[case.key].result != "ok")
    ][: given.limit]


def sample(cases: list[Case], *, seed: int) -> list[Case]:
    """One case of each fault."""
    chance = random.Random(seed)
    by_fault: dict[str, list[Case]] = {}
    for case in cases:
        by_fault.setdefault(case.breakage.name, []).append(case)
    return [chance.choice(same) for same in by_fault.values()]


def _wanted(case: Case, given: argparse.Namespace) -> bool:
    return (
        (not given.step or case.step.value in given.step)
        and (not given.fault or any(text in case.breakage.name for text in given.fault))
        and (not given.strategy or case.strategy.value in given.strategy)
    )


def _is_of(case: Case, given: argparse.Namespace) -> bool:
    """By the case itself: the others' results come in while this one is being started."""
    number = zlib.crc32(str(case).encode()) % given.labs
    return given.labs == 1 or number == given.shard - 1


def work(cases: list[Case], given: argparse.Namespace) -> bool:
    """Do these cases in one lab; whether all of them were ok."""
    good = True
    with FaultLab(f"{given.name}{given.shard or ''}", keep=given.keep_lab) as lab:
        for case in cases:
            done = lab.run(case)
            if done.result == "not reached":  # the move had ended before: on a busy machine, say
                done = lab.run(case)
            good = good and done.ok
            line = results.line(case, result=done.result, detail=done.detail)
            if not given.sample:
                results.append(given.results, line)
            print(f"{line.result:12} {case}: {line.detail}", flush=True)
    return good


def side_by_side(words: list[str], given: argparse.Namespace) -> bool:
    """A process for each lab: entering namespaces forks, which threads do not survive."""
    own = [*words, "--seed", str(given.seed)]
    command = [sys.executable, str(Path(__file__)), *own]
    others = [
        subprocess.Popen([*command, "--shard", str(shard)]) for shard in range(1, given.labs + 1)
    ]
    codes = [process.wait() for process in others]
    return not any(codes)


def main(words: list[str]) -> int:
    given = parse(words)
    cases = selected(given)
    if given.labs > 1 and not given.shard:
        say(f"{len(cases)} cases in {given.labs} labs, seed {given.seed}")
        good = side_by_side(words, given)
    else:
        mine = [case for case in cases if _is_of(case, given)]
        good = work(mine, given) if mine else True
    if given.publish and not given.shard:
        results.publish(results.read(given.results), all_cases(), docs=REPOSITORY / "docs")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
