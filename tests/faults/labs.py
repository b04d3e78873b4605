"""A lab that runs case after case; after a violation it is repaired or made anew."""

from __future__ import annotations

import sys
import traceback
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from faults import trial
from faults.cases import Case
from transship.lab import cluster
from transship.lab.proof import fault_injection, observed_lab
from transship.lab.proof.observed_lab import ObservedLab
from transship.lab.state import LabState, find_state, lab_dir
from transship.lab.status import lab_status

NODES = 3


def say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


class FaultLab:
    """A lab for as long as the `with`. With `keep`, an existing lab is used and left in place."""

    def __init__(self, name: str, *, keep: bool = False) -> None:
        self._name, self._keep = name, keep
        self._stack = ExitStack()
        self._lab: ObservedLab | None = None
        self._cases = 0
        self._violated = False

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
        assert self._lab is not None
        if self._violated:
            self._repair()
        self._cases += 1
        source, target = self._pair()
        try:
            result = trial.run(
                self._lab, case, name=f"w{self._cases}", source=source, target=target
            )
        # a defect of one case must not end the cases after it
        except Exception as e:
            traceback.print_exc()
            result = trial.Result(case, "violated", f"{type(e).__name__}: {e}")
        self._violated = not result.ok
        return result

    def _pair(self) -> tuple[str, str]:
        nodes = self._nodes()
        return nodes[self._cases % NODES], nodes[(self._cases + 1) % NODES]

    def _nodes(self) -> tuple[str, ...]:
        assert self._lab is not None
        return self._lab.state.nodes

    def _repair(self) -> None:
        """Count leftovers as baseline; anything worse needs a new lab."""
        lab = self._lab
        assert lab is not None
        if lab.resources.placements() or not lab_status(lab_dir(self._name), lab.state).complete:
            self._renew()
        else:
            self._lab = replace(lab, baseline=lab.snapshots())

    def _renew(self) -> None:
        self._stack.close()
        self._stack = ExitStack()
        self._open(None)

    def _open(self, existing: LabState | None) -> None:
        state = existing or cluster.up(self._name, NODES, say=say)
        fault_injection.heal(lab_dir(state.name), state)
        self._lab = self._stack.enter_context(observed_lab.idle_lab(state))
