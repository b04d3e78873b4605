"""A lab for many cases, with what its nodes hold at rest; a new one after a case that did harm."""

from __future__ import annotations

import sys
import traceback
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import trial
from table import Case

from transship.lab import cluster
from transship.lab.proof import faults, guests
from transship.lab.proof.world_check import World
from transship.lab.state import LabState, find_state, lab_dir
from transship.lab.status import lab_status

NODES = 3


def say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


class FaultLab:
    """A lab of this name between `with` and its end; `keep` takes one over and leaves it."""

    def __init__(self, name: str, *, keep: bool = False) -> None:
        self._name, self._keep = name, keep
        self._stack = ExitStack()
        self._world: World | None = None
        self._cases = 0
        self._harmed = False

    def __enter__(self) -> Self:
        self._open(find_state(lab_dir(self._name)) if self._keep else None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if not self._keep:
            cluster.down(self._name)

    def run(self, case: Case) -> trial.Result:
        assert self._world is not None
        if self._harmed:
            self._mend()
        self._cases += 1
        source, target = self._pair()
        try:
            result = trial.run(
                self._world, case, name=f"w{self._cases}", source=source, target=target
            )
        except Exception as e:  # the case is over, those after it are not
            traceback.print_exc()
            result = trial.Result(case, "violated", f"{type(e).__name__}: {e}")
        self._harmed = not result.ok
        return result

    def _pair(self) -> tuple[str, str]:
        nodes = self._nodes()
        return nodes[self._cases % NODES], nodes[(self._cases + 1) % NODES]

    def _nodes(self) -> tuple[str, ...]:
        assert self._world is not None
        return self._world.state.nodes

    def _mend(self) -> None:
        """What is left over is in everybody's way no more; anything worse needs a new lab."""
        world = self._world
        assert world is not None
        if world.cluster.placements() or not lab_status(lab_dir(self._name), world.state).complete:
            self._renew()
        else:
            self._world = replace(world, rest=guests.inventories(world))

    def _renew(self) -> None:
        self._stack.close()
        self._stack = ExitStack()
        self._open(None)

    def _open(self, left: LabState | None) -> None:
        state = left or cluster.up(self._name, NODES, say=say)
        faults.heal(lab_dir(state.name), state)
        self._world = self._stack.enter_context(guests.at_rest(state))
