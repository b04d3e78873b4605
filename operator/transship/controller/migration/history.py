"""The history of a placement's migrations: which run, how they ended, when to try again.

A migration is finished once its condition Succeeded is True or False; the record is then never
changed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from transship import strategies
from transship.agentapi.states import SideState
from transship.api.conditions import Condition, Status, find, is_true
from transship.api.migration import ContainerMigration, SideStatus
from transship.api.placement import ContainerPlacement, MigrationSettings, Strategy
from transship.api.reasons import Reason

LABEL_PLACEMENT_UID = "transship.dev/placement-uid"
LABEL_GENERATION = "transship.dev/placement-generation"

DEFAULT_BACKOFF_LIMIT = 3
DEFAULT_HISTORY_LIMIT = 3
FIRST_BACKOFF_SECONDS = 10
LONGEST_BACKOFF_SECONDS = 300
LONGEST_NAME = 253

SOURCE_FENCED = "SourceFenced"
"""The condition of a migration whose source is fenced: the target needs no release."""

Migrations = Sequence[ContainerMigration]

_SETTLED = {state.value for state in SideState if state.finished}
_CANCELLED = {Reason.MIGRATION_CANCELLED.value, Reason.MIGRATION_SUPERSEDED.value}


def summary(migration: ContainerMigration) -> Condition | None:
    return find(migration.status.conditions, "Succeeded")


def is_finished(migration: ContainerMigration) -> bool:
    succeeded = summary(migration)
    return succeeded is not None and succeeded.status != Status.UNKNOWN


def has_succeeded(migration: ContainerMigration) -> bool:
    succeeded = summary(migration)
    return succeeded is not None and succeeded.status == Status.TRUE


def was_cancelled(migration: ContainerMigration) -> bool:
    succeeded = summary(migration)
    if succeeded is None or succeeded.status != Status.FALSE:
        return False
    return succeeded.reason in _CANCELLED


def has_failed(migration: ContainerMigration) -> bool:
    return is_finished(migration) and not has_succeeded(migration) and not was_cancelled(migration)


def was_released(migration: ContainerMigration) -> bool:
    """Whether the source gave the container away, however the move ended."""
    source = migration.status.source
    gave_away = source is not None and source.state in {SideState.RELEASED, SideState.DONE}
    return has_succeeded(migration) or (is_finished(migration) and gave_away)


def source_was_fenced(migration: ContainerMigration) -> bool:
    """Whether the migration records that the target may run without the source's release."""
    return is_true(migration.status.conditions, SOURCE_FENCED)


def has_arrived(migration: ContainerMigration) -> bool:
    """Whether the target is the owner, as far as the migration's own status says."""
    if was_released(migration) or (is_finished(migration) and source_was_fenced(migration)):
        return True
    source, target = _state(migration.status.source), _state(migration.status.target)
    gave_away = source in {SideState.RELEASED, SideState.DONE} or source_was_fenced(migration)
    return gave_away and target == SideState.RUNNING


def unsettled_nodes(migrations: Migrations) -> Mapping[str, str]:
    """Nodes that may still have something of a move that is over, and that move's name.

    Judged by the last reports: a source that released the container and has not reported the end
    of its frozen copy, or a target that had prepared. A node that has got the container again since
    has removed what it had before.
    """
    nodes: dict[str, str] = {}
    over = sorted(filter(is_finished, migrations), key=lambda m: (m.spec.epoch, m.spec.attempt))
    for migration in over:
        source, target = _state(migration.status.source), _state(migration.status.target)
        if was_released(migration):
            nodes.pop(migration.spec.target_node, None)
            if source != SideState.DONE:
                nodes[migration.spec.source_node] = migration.metadata.name
        elif target and target not in _SETTLED:
            nodes[migration.spec.target_node] = migration.metadata.name
    return nodes


def _state(side: SideStatus | None) -> str:
    return "" if side is None else side.state


def unfinished(migrations: Migrations) -> ContainerMigration | None:
    """The one that runs; were there ever several, the oldest."""
    running = [m for m in migrations if not is_finished(m)]
    return min(running, key=lambda m: (m.spec.epoch, m.spec.attempt), default=None)


def generation_of(migration: ContainerMigration) -> int:
    """The generation of the placement that asked for it."""
    label = migration.metadata.labels.get(LABEL_GENERATION, "")
    return int(label) if label.isdecimal() else 0


def failures(migrations: Migrations, placement: ContainerPlacement, *, epoch: int) -> Migrations:
    """Attempts that failed for the present spec, oldest first: any edit starts a new count."""
    generation = placement.metadata.generation
    failed = [
        m
        for m in migrations
        if has_failed(m) and generation_of(m) == generation and m.spec.epoch == epoch
    ]
    return sorted(failed, key=lambda m: m.spec.attempt)


def failures_by_node(failed: Migrations) -> Mapping[str, int]:
    return Counter(m.spec.target_node for m in failed)


def backoff_limit(settings: MigrationSettings) -> int:
    return DEFAULT_BACKOFF_LIMIT if settings.backoff_limit is None else settings.backoff_limit


def next_attempt_time(failed: Migrations) -> datetime | None:
    """When the back-off after the last of these failures ends: 10 s, doubled each time, capped."""
    if not failed or (ended := failed[-1].status.completion_time) is None:
        return None
    seconds = min(FIRST_BACKOFF_SECONDS * 2 ** (len(failed) - 1), LONGEST_BACKOFF_SECONDS)
    return ended + timedelta(seconds=seconds)


def next_attempt(migrations: Migrations, *, epoch: int) -> int:
    return 1 + max((m.spec.attempt for m in migrations if m.spec.epoch == epoch), default=0)


def migration_name(placement: str, *, epoch: int, attempt: int) -> str:
    """Deterministic, so that a repeated creation is a conflict and not a twin."""
    suffix = f"-{epoch}-{attempt}"
    return placement[: LONGEST_NAME - len(suffix)].rstrip("-.") + suffix


def resolve_strategy(wish: Strategy, *, stopped: bool) -> tuple[Strategy, str]:
    """The strategy that is used, and why it is not the wished one (empty when it is)."""
    strategy = strategies.of(wish).for_container(stopped=stopped).name
    return strategy, "" if strategy == wish else strategies.NOT_RUNNING


def expired_history(
    migrations: Migrations, placement: ContainerPlacement, *, silent: Callable[[str], bool]
) -> Migrations:
    """Finished migrations beyond the limits.

    Kept are failures that the back-off counts, and what tells that a silent node has something.
    """
    settings, counted = placement.spec.migration, placement.metadata.generation
    finished = [m for m in migrations if is_finished(m) and m.metadata.deletion_timestamp is None]
    newest = sorted(finished, key=lambda m: (m.spec.epoch, m.spec.attempt), reverse=True)
    succeeded = [m for m in newest if has_succeeded(m)]
    others = [m for m in newest if not has_succeeded(m)]
    surplus = [
        *succeeded[_limit(settings.successful_history_limit) :],
        *others[_limit(settings.failed_history_limit) :],
    ]
    needed = {move for node, move in unsettled_nodes(migrations).items() if silent(node)}
    return [
        m
        for m in surplus
        if (has_succeeded(m) or generation_of(m) != counted) and m.metadata.name not in needed
    ]


def _limit(given: int | None) -> int:
    return DEFAULT_HISTORY_LIMIT if given is None else given
