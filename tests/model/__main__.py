"""Explore more than `make test-model` has time for, or show how a broken rule is noticed."""

from __future__ import annotations

import argparse
import sys
import time

from model.explorer import AGAIN, BACK, POST_COPY, THERE, Bounds, Explorer
from model.mutants import MUTANTS

SEARCHES = {
    "one move, every fault": Bounds((THERE,)),
    "a retry, disks fail": Bounds((THERE, AGAIN), power_fails=False),
    "a retry, power fails": Bounds((THERE, AGAIN), disks_fail=False),
    "a post-copy, every fault": Bounds((POST_COPY,)),
    "a post-copy and a return": Bounds((POST_COPY, BACK), disks_fail=False, power_fails=False),
    "a return, disks fail": Bounds((THERE, BACK), power_fails=False),
    "a return, power fails": Bounds((THERE, BACK), disks_fail=False),
    "a return, every fault": Bounds((THERE, BACK)),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    flags = parser.parse_args()
    if flags.mutant is not None:
        rules, bounds = MUTANTS[flags.mutant]
        print(Explorer(bounds, rules).explore() or "not noticed")
        return 0
    return max(_search(name, bounds) for name, bounds in SEARCHES.items())


def _search(name: str, bounds: Bounds) -> int:
    explorer, began = Explorer(bounds), time.process_time()
    violation = explorer.explore()
    seconds = time.process_time() - began
    size = f"{len(explorer.worlds)} states, {explorer.transitions} transitions, {seconds:.0f} s"
    print(f"{name}: {size}: {violation or 'safe, and settles'}", flush=True)
    return int(violation is not None)


sys.exit(main())
