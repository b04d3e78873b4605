"""`make bench-podman`: the same container moved by Transship and by podman, in the same lab.

    python -m bench.run [--memory 256Mi]... [--dirty 20Mi] [--runs N] [--json]

Our blackout is that of `transship bench migrate`. Podman's is the longest time without an echo,
from the last one of the old copy to the first one of the new copy. Podman compresses its archive by
default (zstd), and the counter's memory compresses to almost nothing; `--compress none` stands for
memory that does not compress.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.echoes import Echoes
from bench.podman import ADDITION, PodmanContainer, Steps
from transship.api.placement import Strategy
from transship.api.quantity import bytes_of
from transship.common.errors import DeadlineExceeded
from transship.lab import cluster
from transship.lab.proof import bench
from transship.lab.proof.counter_client import CounterClient
from transship.lab.state import LabState

SETTLED_REPLIES = 100
SETTLE_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class PodmanRun:
    """`kept`: the client's connection survived. Podman loses about one in 40."""

    blackout_ms: float
    kept: bool
    steps: Steps


@dataclass(frozen=True)
class PodmanResult:
    """The moves with one kind of compression."""

    compress: str
    runs: tuple[PodmanRun, ...]

    @property
    def median(self) -> float:
        return median(run.blackout_ms for run in self.runs)

    @property
    def kept(self) -> int:
        return sum(run.kept for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    memory_bytes: int
    dirty_bytes_per_second: int
    transship: bench.Result
    podman: tuple[PodmanResult, ...]

    @property
    def ours(self) -> float:
        return median(run.blackout_ms for run in self.transship.runs)

    def as_json(self) -> dict[str, Any]:
        return {
            "memory_bytes": self.memory_bytes,
            "dirty_bytes_per_second": self.dirty_bytes_per_second,
            "transship": {
                "runs": [asdict(run) for run in self.transship.runs],
                "median": self.transship.medians(),
            },
            "podman": [
                {
                    "compress": result.compress,
                    "runs": [asdict(run) for run in result.runs],
                    "median": {"blackout_ms": result.median},
                    "connections_kept": result.kept,
                    "times": result.median / self.ours,
                }
                for result in self.podman
            ],
        }

    def lines(self) -> Iterator[str]:
        yield f"{self.memory_bytes >> 20} MiB: Transship {self.ours:.0f} ms"
        for result in self.podman:
            yield (
                f"  podman, {result.compress}: {result.median:.0f} ms, "
                f"{result.median / self.ours:.0f} times as long; "
                f"connection kept in {result.kept} of {len(result.runs)} moves"
            )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", action="append", help="can be repeated; 256Mi and 1Gi")
    parser.add_argument("--dirty", default="20Mi", help="memory rewritten per second")
    parser.add_argument("--runs", type=int, default=10, help="measured moves of each")
    parser.add_argument("--compress", action="append", help="podman's archive; zstd and none")
    parser.add_argument("--name", default="bench-podman", help="the lab, made and removed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def compare(state: LabState, options: argparse.Namespace, *, memory: int) -> Comparison:
    dirty = bytes_of(options.dirty)
    job = bench.Job(memory=memory, dirty=dirty, strategy=Strategy.AUTO, runs=options.runs)
    ours = asyncio.run(bench.measure(state, job, say=say))
    podmans: list[PodmanResult] = []
    for compress in options.compress or ["zstd", "none"]:
        say(f"podman, its archive compressed by {compress}")
        with PodmanContainer(state, memory=memory, dirty=dirty, compress=compress) as container:
            runs = moves_of(container, state.nodes, runs=options.runs)
        podmans.append(PodmanResult(compress, tuple(runs)))
    return Comparison(memory, dirty, ours, tuple(podmans))


def moves_of(container: PodmanContainer, nodes: Sequence[str], *, runs: int) -> list[PodmanRun]:
    """Move it back and forth; the first move is not measured."""
    done: list[PodmanRun] = []
    with Echoes(container.address) as echoes:
        for number in range(runs + 1):
            with CounterClient(container.address) as client:
                echoes.reset()
                steps = container.move(nodes[number % 2], nodes[(number + 1) % 2])
                done.append(PodmanRun(echoes.longest_gap_milliseconds(), goes_on(client), steps))
            say(f"podman, run {number} of {runs}: blackout {done[-1].blackout_ms:.0f} ms")
    return done[1:]


def goes_on(client: CounterClient) -> bool:
    """Whether the connection survived."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
    client.reset()
    while client.measurement().replies < SETTLED_REPLIES:
        if client.measurement().error:
            return False
        if time.monotonic() > deadline:
            raise DeadlineExceeded("waiting for replies after the move: there are none")
        time.sleep(POLL_SECONDS)
    return True


def say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def main(words: list[str]) -> None:
    options = parse(words)
    sizes = [bytes_of(size) for size in options.memory or ["256Mi", "1Gi"]]
    try:
        state = cluster.up(options.name, 2, say=say, addition=ADDITION)
        compared = [compare(state, options, memory=size) for size in sizes]
    finally:
        cluster.down(options.name)
    if options.json:
        print(json.dumps([each.as_json() for each in compared], indent=2))
    else:
        print("\n".join(line for each in compared for line in each.lines()))


if __name__ == "__main__":
    main(sys.argv[1:])
