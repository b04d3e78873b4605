"""One case: a witness under a client is moved, something breaks, and the world is checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from table import Case

from transship.api.migration import MigrationPhase, MigrationStatus, StepName
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.lab.proof import failpoints, guests, witness, world_check
from transship.lab.proof.breakage import Ending, Missed
from transship.lab.proof.copies import CopyWatch
from transship.lab.proof.counter_client import CounterClient
from transship.lab.proof.scene import OPERATOR, Scene, Side, revive
from transship.lab.proof.world_check import Guest, World, until_none
from transship.lab.state import lab_dir

START_SECONDS = 30.0
REACH_SECONDS = 40.0
END_SECONDS = 60.0
SETTLE_SECONDS = 60.0  # a connection that was cut for long tries again only after as long
CLEAN_SECONDS = 20.0
BEFORE_REPLIES = 50


LOST = Reason.CONTAINER_LOST  # by a target that owned it: it is started anew there


class NotReached(TransshipError):
    """The move did not come by the step: the case says nothing."""


@dataclass(frozen=True)
class Result:
    case: Case
    result: str  # ok, violated, not reached
    detail: str

    @property
    def ok(self) -> bool:
        return self.result == "ok"


def run(world: World, case: Case, *, name: str, source: str, target: str) -> Result:
    """Move `name` from source to target, disturbed; nothing of it is left afterwards."""
    began = time.monotonic()
    try:
        with _guest(world, name, node=source, strategy=case.strategy) as made:
            findings, story = _disturbed_move(world, made, case, source=source, target=target)
        findings += _removed(world, made)
    except NotReached as e:
        _removed(world, Guest(name, "", ""))
        return Result(case, "not reached", e.message)
    spent = f"{time.monotonic() - began:.1f} s"
    if findings:
        return Result(case, "violated", "; ".join(findings[:6]) + f" ({story}, {spent})")
    return Result(case, "ok", f"{story}, {spent}")


@contextmanager
def _guest(world: World, name: str, *, node: str, strategy: Strategy) -> Iterator[Guest]:
    """A witness that runs, with a client that has been answered for a while."""
    made = Guest(name, "", "")
    placement = guests.placement(world.state, name, node=node, strategy=strategy, tries_again=False)
    world.cluster.create(placement)
    try:
        guests.await_running(world, made, node=node)
    except TransshipError as e:
        raise NotReached(e.message) from e
    made.run = witness.hear(made.address).name
    with CounterClient(made.address) as made.client:
        until_none(lambda: _few_replies(made), seconds=START_SECONDS)
        yield made


def _few_replies(made: Guest) -> list[str]:
    enough = made.client is not None and made.client.number >= BEFORE_REPLIES
    return [] if enough else ["the client has not been answered"]


def _disturbed_move(
    world: World, made: Guest, case: Case, *, source: str, target: str
) -> tuple[list[str], str]:
    directory = lab_dir(world.state.name)
    scene = Scene(world.cluster, directory, made.name, made.container, source, target)
    with CopyWatch(world.state, [made.container]) as watch:
        _disturb(scene, case)
        findings, story = _aftermath(world, made, case, scene)
    return [*findings, *(f"two copies ran: {moment}" for moment in watch.twice)], story


def _disturb(scene: Scene, case: Case) -> None:
    side, place = case.place
    node = scene.node(side)
    failpoints.arm(scene.directory, node, place)
    try:
        scene.cluster.edit(scene.placement, {"targetNode": scene.target})
        try:
            failpoints.await_reached(scene.directory, node, place, timeout_seconds=REACH_SECONDS)
        except TransshipError as e:
            raise NotReached(f"{e.message}; {_told(scene)}") from e
        case.breakage.do(scene)
        time.sleep(case.breakage.lead_seconds)  # a part of the fault, not a wait for something
    finally:
        failpoints.disarm(scene.directory, node)
    try:
        time.sleep(case.breakage.seconds)  # the length of the fault, not a wait for something
    finally:
        _undo(scene, case)


def _told(scene: Scene) -> str:
    """What the newest migration says of itself."""
    status = [m.status for m in scene.cluster.migrations(scene.placement)][-1:]
    return "; ".join(f"{each.phase} {each.reason or ''} {each.message or ''}" for each in status)


def _undo(scene: Scene, case: Case) -> None:
    try:
        case.breakage.undo(scene)
    except Missed as e:
        raise NotReached(e.message) from e


def _aftermath(world: World, made: Guest, case: Case, scene: Scene) -> tuple[list[str], str]:
    """What is wrong once all is mended; and in a few words how it ended."""
    if case.breakage.ending is Ending.DELETED:
        return [], "deleted"
    made.restarted = case.loses_the_container
    findings = until_none(lambda: _unfinished(world, made, scene), seconds=END_SECONDS)
    if findings:
        return findings, "it did not end"
    node = _belongs_on(world, made, scene)
    story = f"{_end_of(world, made)} on {'target' if node == scene.target else 'source'}"
    findings = _ended_rightly(case, at_target=node == scene.target)
    world.cluster.edit(made.name, {"targetNode": node})  # a failed move is not tried again here
    findings += until_none(
        lambda: world_check.whole(world, made, node=node), seconds=SETTLE_SECONDS
    )
    if case.breakage.may_lose_memory:
        findings += _honest(world, made)
    others = [each for each in world.state.nodes if each != node]
    findings += until_none(
        lambda: [item for each in others for item in world.leftovers(each)], seconds=CLEAN_SECONDS
    )
    return findings, story


def _unfinished(world: World, made: Guest, scene: Scene) -> list[str]:
    """Whatever has ended is started again meanwhile."""
    services = (OPERATOR, scene.agent(Side.SOURCE), scene.agent(Side.TARGET))
    revive(scene.directory, scene.state, services)
    return world_check.unfinished(world, made)


def _belongs_on(world: World, made: Guest, scene: Scene) -> str:
    """By how the move has ended; where its story was deleted, by what the placement says."""
    if ended := _ended(world, made):
        moved = ended[-1].phase is MigrationPhase.SUCCEEDED
        return scene.target if moved or ended[-1].reason == LOST else scene.source
    placement = world.cluster.placement(made.name)
    assert placement is not None
    return placement.status.node or scene.source


def _end_of(world: World, made: Guest) -> str:
    ended = _ended(world, made)
    return f"{ended[-1].phase} ({ended[-1].reason})" if ended else "migration gone"


def _ended(world: World, made: Guest) -> list[MigrationStatus]:
    """Not the move back that follows one that was called back too late."""
    found = [each.status for each in world.cluster.migrations(made.name)]
    return [each for each in found if each.phase is not None and each.phase.finished]


def _ended_rightly(case: Case, *, at_target: bool) -> list[str]:
    if case.released and not at_target:
        return ["it was released, and yet did not end at the target"]
    # an agent that stands at Decide writes its verdict before it hears anything else
    in_time = not case.released and case.step is not StepName.DECIDE
    if case.breakage.ending is Ending.STAYS and in_time and at_target:
        return ["it was called back before the release, and yet moved"]
    return []


def _honest(world: World, made: Guest) -> list[str]:
    """A program that was started anew has a migration that says so."""
    told = world.cluster.migrations(made.name)[-1].status.reason == LOST
    anew = witness.hear(made.address).name != made.run
    return [] if anew is told else [f"started anew: {anew}, and the migration says so: {told}"]


def _removed(world: World, made: Guest) -> list[str]:
    world.cluster.delete(made.name)
    findings = until_none(lambda: guests.still_there(world, made), seconds=END_SECONDS)
    if findings:
        return findings
    return until_none(
        lambda: [item for node in world.state.nodes for item in world.leftovers(node)],
        seconds=CLEAN_SECONDS,
    )
