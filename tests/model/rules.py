"""The real decision functions, as the model calls them: a mutant can replace each of them.

A Ledger numbers the records, since a world of numbers hashes fast, and remembers the answer of each
rule for each record: the real functions run once per question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transship.agent.containers import decide as supervision
from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import LONG_AGO, Record
from transship.common.errors import Refused
from transship.controller.migration import decide as migration_plan

NONE = 0
"""The number of no record."""

Rule = Callable[..., Any]
RecordRule = Callable[..., Record]


@dataclass(frozen=True)
class Rules:
    """As the agents and the operator run them."""

    ordered: RecordRule = transitions.ordered
    outgoing: RecordRule = transitions.outgoing
    frozen: RecordRule = transitions.frozen
    released: RecordRule = transitions.released
    memory_sent: RecordRule = transitions.memory_sent
    aborted: RecordRule = transitions.aborted
    incoming: RecordRule = transitions.incoming
    held: RecordRule = transitions.held
    running: RecordRule = transitions.running
    started: RecordRule = transitions.started
    restarting: RecordRule = transitions.restarting
    verdict: Rule = transitions.verdict
    after_restart: Rule = recovery.after_restart
    on_verdict: Rule = recovery.on_verdict
    to_discard: Rule = recovery.to_discard
    require_unheld: Rule = recovery.require_unheld
    require_movable: Rule = recovery.require_movable
    owes_abort: Rule = recovery.owes_abort
    may_run_on_unwritten: Rule = recovery.may_run_on_unwritten
    released_to: Rule = recovery.released_to
    require_memory_sent: Rule = recovery.require_memory_sent
    next_instance_step: Rule = supervision.next_step
    next_migration_step: Rule = migration_plan.next_step


class Ledger:
    """Records by number, and what was found out about them."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._records: list[Record | None] = [None]
        self._numbers: dict[Record | None, int] = {None: NONE}
        self._known: dict[tuple[object, ...], Any] = {}

    def record(self, number: int) -> Record:
        found = self._records[number]
        assert found is not None
        return found

    def maybe(self, number: int) -> Record | None:
        return self._records[number]

    def number(self, record: Record | None) -> int:
        """Records that differ only in figures and times are one."""
        if record is not None:
            record = record.but(restarts=0, last_exit=None, start_time=None, written_at=LONG_AGO)
        known = self._numbers.get(record)
        if known is None:
            known = self._numbers[record] = len(self._records)
            self._records.append(record)
        return known

    def next(self, key: tuple[object, ...], rule: Callable[[], Record]) -> int:
        """The number of the record that follows; NONE: refused."""
        known = self._known.get(key)
        if known is None:
            try:
                known = self.number(rule())
            except Refused:
                known = NONE
            self._known[key] = known
        return int(known)

    def allows(self, key: tuple[object, ...], rule: Callable[[], object]) -> bool:
        """Of a rule that only refuses."""
        known = self._known.get(key)
        if known is None:
            try:
                rule()
            except Refused:
                known = False
            else:
                known = True
            self._known[key] = known
        return bool(known)

    def find(self, key: tuple[object, ...], rule: Callable[[], Any]) -> Any:
        """Anything else that a key alone decides."""
        if key not in self._known:
            self._known[key] = rule()
        return self._known[key]
