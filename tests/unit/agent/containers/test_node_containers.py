from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.instances import DIGEST, FakeInstances
from fakes.orders import BOOT, ID, MIGRATION, order, peer
from transship.agent.containers.decide import ObservedContainer
from transship.agent.containers.deps import SupervisorDeps
from transship.agent.containers.node_containers import NodeContainers
from transship.agent.containers.probes import Outcome, Prober
from transship.agent.journal import transitions
from transship.agent.journal.record import LONG_AGO
from transship.agent.journal.store import Journal
from transship.agentapi.containers import ContainerOrder, ContainerReport, ProbeState
from transship.agentapi.migrations import Lifecycle
from transship.agentapi.states import RecordState, RunState
from transship.api.container import RestartPolicy
from transship.api.placement import DesiredState, LastExit
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError


class Answering:
    """What exec probes get."""

    outcome = Outcome(succeeded=True)
    asked = 0

    async def execute(self, argv: tuple[str, ...], *, timeout_seconds: float) -> Outcome:
        self.asked += 1
        return self.outcome


class Node:
    """An agent's containers over a machine in memory; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.instances = FakeInstances()
        self.answering = Answering()
        self.boot = BOOT
        self.containers = self.start()

    def start(self) -> NodeContainers:
        self.journal = Journal(self.folder / "journal", boot=self.boot, clock=self.clock)
        self.journal.load()
        return NodeContainers(
            SupervisorDeps(self.journal, self.instances, self.clock, self._prober)
        )

    def _prober(
        self,
        order: ContainerOrder,
        *,
        known: ProbeState,
        ran_seconds: float,
        changed: Callable[[], None],
    ) -> Prober:
        return Prober(
            order.container, address=None, executor=self.answering, known=known,
            ran_seconds=ran_seconds, changed=changed,
        )  # fmt: skip

    async def restart_agent(self) -> None:
        await self.containers.close()
        self.containers = self.start()
        self.containers.begin()

    async def power_cut(self, boot: str) -> None:
        self.instances.power_cut()
        self.boot = boot
        await self.restart_agent()

    def exit(self, code: int) -> None:
        self.instances.exit(ID, code, at=self.clock.now())
        self.containers.on_exit(ID)

    async def until(self, condition: Callable[[ContainerReport], bool]) -> ContainerReport:
        """The world changes in the background: wait for it."""
        async with asyncio.timeout(2):
            while not condition(report := self.containers.report(ID)):  # noqa: ASYNC110
                await asyncio.sleep(0)
            return report

    async def until_running(self) -> ContainerReport:
        return await self.until(lambda r: r.run is RunState.RUNNING and r.reason == "" and r.ready)

    async def until_gone(self) -> None:
        async with asyncio.timeout(2):
            while self.journal.get(ID) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    yield made
    await made.containers.close()


async def test_an_order_is_taken_at_once_and_carried_out(node: Node) -> None:
    first = node.containers.apply(order())
    assert (first.record, first.run) == (RecordState.RUNNING, RunState.ABSENT)
    report = await node.until_running()
    assert (report.image_digest, report.restarts) == (DIGEST, 0)
    assert report.start_time == node.clock.now()


async def test_a_repeated_order_changes_nothing(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    node.containers.apply(order())
    await node.settle()
    assert node.instances.starts == 1


async def test_a_pull_is_told_and_does_not_hold_up_a_deletion(node: Node) -> None:
    node.instances.registry_answers.clear()
    node.containers.apply(order())
    await node.until(lambda r: r.reason == Reason.PULLING_IMAGE)
    node.containers.delete(ID, epoch=1)
    await node.until_gone()
    assert node.instances.starts == 0


async def test_a_start_that_fails_is_told_and_tried_again_later(node: Node) -> None:
    node.instances.failure = TransshipError("no such command", reason="ContainerStartFailed")
    node.containers.apply(order())
    report = await node.until(lambda r: r.reason == "ContainerStartFailed")
    assert report.message == "no such command"

    node.instances.failure = None
    node.containers.apply(order())  # impatience does not help
    await node.settle()
    assert node.instances.starts == 0
    node.clock.pass_time(10)
    node.containers.apply(order())
    await node.until_running()


async def test_a_container_that_ends_is_started_again_and_counted(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    node.exit(3)
    report = await node.until(lambda r: r.restarts == 1 and r.run is RunState.RUNNING)
    assert report.last_exit is not None
    assert (report.last_exit.exit_code, report.last_exit.reason) == (3, "Error")


async def test_one_that_keeps_ending_waits(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    node.exit(1)
    await node.until(lambda r: r.restarts == 1 and r.run is RunState.RUNNING)
    node.exit(1)
    report = await node.until(lambda r: r.reason == Reason.CRASH_LOOP_BACK_OFF)
    assert "status 1" in report.message
    assert node.instances.starts == 2


async def test_one_that_shall_not_restart_ends_for_good_even_over_an_agents_restart(
    node: Node,
) -> None:
    node.containers.apply(order(policy=RestartPolicy.NEVER))
    await node.until_running()
    node.exit(0)
    await node.until(lambda r: r.record is RecordState.STOPPED)
    await node.restart_agent()
    node.containers.apply(order(policy=RestartPolicy.NEVER))
    await node.settle()
    assert node.instances.starts == 1


async def test_it_is_stopped_frozen_and_run_on_demand(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    node.containers.apply(order(state=DesiredState.FROZEN))
    await node.until(lambda r: r.run is RunState.FROZEN)
    node.containers.apply(order(state=DesiredState.STOPPED))
    await node.until(lambda r: r.record is RecordState.STOPPED and r.run is RunState.ABSENT)
    node.containers.apply(order())
    report = await node.until_running()
    assert report.restarts == 0


async def test_a_deletion_removes_it_and_can_be_repeated(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    assert node.containers.delete(ID, epoch=1) is not None
    await node.until_gone()
    assert node.containers.delete(ID, epoch=1) is None
    assert node.instances.removed == {ID}
    with pytest.raises(NotFound):
        node.containers.report(ID)


async def test_a_deletion_by_one_who_knows_less_is_refused(node: Node) -> None:
    node.containers.apply(order(epoch=4))
    with pytest.raises(Refused):
        node.containers.delete(ID, epoch=3)


async def test_a_container_runs_on_through_a_restart_of_the_agent(node: Node) -> None:
    node.containers.apply(order())
    before = await node.until_running()
    await node.restart_agent()
    after = await node.until(lambda _: node.instances.attached == {ID})
    assert after.ready
    assert (after.start_time, after.restarts) == (before.start_time, 0)


async def test_an_exit_that_nobody_saw_is_found_at_the_start(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    node.instances.exit(ID, 5)
    await node.restart_agent()
    report = await node.until(lambda r: r.restarts == 1 and r.run is RunState.RUNNING)
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 5


async def test_an_agent_killed_right_after_a_start_does_not_start_a_second_time(node: Node) -> None:
    node.journal.put(transitions.ordered(None, order(), boot=BOOT))
    await node.instances.start(order())
    await node.restart_agent()
    await node.until_running()
    assert node.instances.starts == 1
    found = node.journal.get(ID)
    assert found is not None
    assert found.started_boot == BOOT


async def test_after_a_power_cut_it_waits_for_the_operator(node: Node) -> None:
    """The node may have been fenced, and the container may run elsewhere by now."""
    node.containers.apply(order())
    await node.until_running()
    await node.power_cut("second-boot")
    await node.until(lambda r: r.reason == Reason.AWAITING_ORDER)
    await node.restart_agent()
    report = await node.until(lambda r: r.reason == Reason.AWAITING_ORDER)
    assert report.last_exit is not None
    assert report.last_exit.reason == "NodeRestarted"
    assert node.instances.starts == 1

    node.containers.apply(order())
    report = await node.until_running()
    assert report.restarts == 1


async def test_the_end_of_a_disowned_copy_is_no_exit(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    record = node.journal.get(ID)
    assert record is not None
    node.journal.put(transitions.frozen(record, migration=MIGRATION, peer=peer()))
    node.containers.disown(ID)
    node.exit(137)
    await node.settle()
    report = node.containers.report(ID)
    assert (report.record, report.restarts, node.instances.starts) == (RecordState.FROZEN, 0, 1)
    assert not report.ready


async def test_a_copy_that_was_taken_back_is_looked_after_again(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    record = node.journal.get(ID)
    assert record is not None
    frozen = node.journal.put(transitions.frozen(record, migration=MIGRATION, peer=peer()))
    node.containers.disown(ID)
    await node.instances.freeze(ID)
    node.journal.put(transitions.aborted(frozen, migration=MIGRATION))
    await node.instances.thaw(ID)
    node.containers.readopt(ID)
    await node.until_running()
    node.exit(1)
    await node.until(lambda r: r.restarts == 1)


async def test_a_frozen_copy_stays_frozen_over_a_restart_of_the_agent(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    record = node.journal.get(ID)
    assert record is not None
    node.journal.put(transitions.frozen(record, migration=MIGRATION, peer=peer()))
    node.containers.disown(ID)
    await node.instances.freeze(ID)
    await node.restart_agent()
    await node.settle()
    assert node.containers.report(ID).run is RunState.FROZEN


async def test_a_container_is_started_anew_from_the_image_that_it_was_made_from(node: Node) -> None:
    """Its tag may mean another one by now."""
    node.containers.apply(order())
    await node.until_running()
    await node.restart_agent()
    node.exit(1)
    await node.until(lambda r: r.restarts == 1)
    await node.until_running()
    node.containers.apply(order(state=DesiredState.STOPPED))
    await node.until(lambda r: r.record is RecordState.STOPPED)
    node.containers.apply(order())
    await node.until_running()
    assert node.instances.fetched == [None, DIGEST]


async def test_how_it_ended_is_awaited_where_it_is_not_known_yet(node: Node) -> None:
    node.containers.apply(order(policy=RestartPolicy.ON_FAILURE))
    await node.until_running()
    node.instances.exits_to_come[ID] = 0
    node.instances.observed[ID] = ObservedContainer(RunState.EXITED)
    node.containers.on_exit(ID)
    report = await node.until(lambda r: r.record is RecordState.STOPPED)
    assert report.last_exit is not None
    assert (report.last_exit.exit_code, report.last_exit.reason) == (0, "Completed")
    assert node.instances.starts == 1


async def test_what_is_being_stopped_is_not_given_away_before_that_is_done(node: Node) -> None:
    """The end of its grace would kill the copy that was given away meanwhile."""
    node.containers.apply(order())
    await node.until_running()
    node.instances.grace_is_over.clear()
    node.containers.apply(order(state=DesiredState.STOPPED))
    await node.settle()
    resting = asyncio.create_task(node.containers.wait_for_step(ID))
    await node.settle()
    assert not resting.done()
    stops = node.instances.stops

    async def give_away() -> None:
        await resting
        record = node.journal.get(ID)
        assert record is not None
        node.journal.put(transitions.frozen(record, migration=MIGRATION, peer=peer()))
        node.containers.disown(ID)

    giving = asyncio.create_task(give_away())
    node.instances.grace_is_over.set()
    await giving
    await node.settle()
    assert node.instances.stops == stops
    assert node.containers.report(ID).record is RecordState.FROZEN


PROBE = {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1}


async def test_it_is_ready_when_its_probe_says_so(node: Node) -> None:
    node.answering.outcome = Outcome(succeeded=False, answer="not yet")
    node.containers.apply(order(readiness_probe=PROBE))
    report = await node.until(lambda r: r.reason == Reason.CONTAINER_NOT_READY)
    assert "not yet" in report.message
    assert not report.ready


async def test_probes_that_fail_for_want_of_memory_stop_nothing(node: Node) -> None:
    """After a post-copy whose source is away it waits for its pages, however long that takes."""
    node.containers.apply(order(liveness_probe=PROBE))
    await node.until_running()
    running = node.instances.observe(ID)
    node.instances.observed[ID] = replace(running, awaits_memory=True)
    node.answering.outcome = Outcome(succeeded=False, answer="no answer in 1 s")
    asked = node.answering.asked
    async with asyncio.timeout(10):
        while node.answering.asked < asked + 3:
            await node.settle()
            await asyncio.sleep(0.01)
    node.answering.outcome = Outcome(succeeded=True)
    node.instances.observed[ID] = running
    await node.until_running()
    assert (node.instances.starts, node.instances.stops) == (1, 0)


async def test_a_failed_liveness_probe_restarts_it(node: Node) -> None:
    node.answering.outcome = Outcome(succeeded=False, answer="stuck")
    node.containers.apply(order(liveness_probe=PROBE))
    report = await node.until(lambda r: r.restarts == 1)
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 143


async def test_a_container_that_came_here_is_ready_until_its_probe_fails(node: Node) -> None:
    arrived = transitions.ordered(None, order(readiness_probe=PROBE), boot=BOOT).but(
        started_boot=BOOT
    )
    await node.instances.start(arrived.order)
    node.answering.outcome = Outcome(succeeded=True)
    node.containers.adopt(node.journal.put(arrived), pid=7, lifecycle=None)
    await node.until(lambda r: r.ready)


async def test_quietened_no_probe_runs_and_the_last_answer_stands(node: Node) -> None:
    node.containers.apply(order(readiness_probe=PROBE))
    await node.until_running()
    await node.containers.pause_probes(ID)
    asked = node.answering.asked
    await asyncio.sleep(1.1)  # the probe's period
    assert node.answering.asked == asked
    assert node.containers.report(ID).ready
    node.containers.readopt(ID)
    await node.until(lambda _: node.answering.asked > asked)


SLOW_PROBE = PROBE | {"failureThreshold": 3, "initialDelaySeconds": 60}


@pytest.mark.parametrize("ready", [True, False])
async def test_one_that_came_here_is_as_ready_as_it_was(node: Node, ready: bool) -> None:
    """From the first report on, and until its probe has said otherwise."""
    arrived = transitions.ordered(None, order(readiness_probe=SLOW_PROBE), boot=BOOT)
    probes = ProbeState(started=True, ready=ready)
    node.journal.put(arrived.but(started_boot=BOOT, probes=probes))
    await node.instances.start(arrived.order)
    assert node.containers.report(ID).ready is ready
    node.containers.adopt(arrived, pid=7, lifecycle=Lifecycle(probes=probes))
    assert node.containers.report(ID).ready is ready
    await node.settle()
    assert node.containers.report(ID).ready is ready


async def test_a_restarted_agent_takes_nothing_for_ready_that_never_was(node: Node) -> None:
    node.answering.outcome = Outcome(succeeded=False, answer="not yet")
    node.containers.apply(order(readiness_probe=PROBE | {"failureThreshold": 3}))
    await node.until(lambda r: r.run is RunState.RUNNING)
    await node.restart_agent()
    await node.settle()
    assert not node.containers.report(ID).ready


async def test_a_restart_of_the_agent_does_not_make_a_ready_container_unready(node: Node) -> None:
    node.containers.apply(order(readiness_probe=PROBE))
    await node.until_running()
    await node.containers.close()
    node.containers = node.start()
    assert node.containers.report(ID).ready
    node.containers.begin()
    assert node.containers.report(ID).ready
    await node.settle()
    assert node.containers.report(ID).ready


async def test_the_next_instance_has_to_become_ready_itself(node: Node) -> None:
    node.containers.apply(order(readiness_probe=PROBE | {"failureThreshold": 3}))
    await node.until_running()
    node.answering.outcome = Outcome(succeeded=False, answer="not yet")
    node.exit(1)
    report = await node.until(lambda r: r.restarts == 1 and r.run is RunState.RUNNING)
    assert not report.ready


LAST_EXIT = LastExit(exit_code=3, time=LONG_AGO, reason="Error")


def arrive_ended(node: Node, lifecycle: Lifecycle, *, policy: RestartPolicy) -> None:
    """A container comes that does not run."""
    arrived = transitions.ordered(None, order(policy=policy), boot=BOOT)
    state = RecordState.STOPPED if lifecycle.completed else RecordState.RUNNING
    past = {"last_exit": lifecycle.last_exit, "restarts": lifecycle.restarts}
    record = node.journal.put(arrived.but(state=state, **past))
    node.containers.adopt(record, pid=None, lifecycle=lifecycle)


async def test_one_that_came_here_in_its_back_off_waits_on(node: Node) -> None:
    lifecycle = Lifecycle(
        restarts=4, last_exit=LAST_EXIT, back_off_seconds=80, waiting_seconds=30
    )  # fmt: skip
    arrive_ended(node, lifecycle, policy=RestartPolicy.ALWAYS)
    report = await node.until(lambda r: r.reason == Reason.CRASH_LOOP_BACK_OFF)
    assert (report.restarts, report.last_exit, node.instances.starts) == (4, LAST_EXIT, 0)

    node.clock.pass_time(30)
    node.containers.apply(order())
    await node.until_running()
    node.exit(3)
    report = await node.until(lambda r: r.reason == Reason.CRASH_LOOP_BACK_OFF)
    node.clock.pass_time(79)
    node.containers.on_exit(ID)
    await node.settle()
    assert (node.containers.report(ID).restarts, node.instances.starts) == (5, 1)


async def test_one_that_came_here_completed_never_runs(node: Node) -> None:
    lifecycle = Lifecycle(completed=True, last_exit=LAST_EXIT)
    arrive_ended(node, lifecycle, policy=RestartPolicy.NEVER)
    await node.settle()
    node.containers.apply(order(policy=RestartPolicy.NEVER))
    await node.restart_agent()
    await node.settle()
    await node.power_cut("next-boot")
    node.containers.apply(order(policy=RestartPolicy.NEVER))
    await node.settle()
    report = node.containers.report(ID)
    assert (report.record, report.last_exit) == (RecordState.STOPPED, LAST_EXIT)
    assert node.instances.starts == 0


async def test_an_end_that_nobody_has_noted_is_noted_before_it_is_given_away(node: Node) -> None:
    node.containers.apply(order(policy=RestartPolicy.NEVER))
    await node.until_running()
    node.instances.exit(ID, 7)  # nobody has told its supervisor
    assert await node.containers.wait_for_step(ID) is None
    report = node.containers.report(ID)
    assert report.last_exit is not None
    assert (report.record, report.last_exit.exit_code) == (RecordState.STOPPED, 7)


@pytest.mark.parametrize(
    ("policy", "after", "restarts"),
    [(RestartPolicy.NEVER, RecordState.STOPPED, 0), (RestartPolicy.ALWAYS, RecordState.RUNNING, 1)],
)
async def test_one_that_ends_as_it_is_frozen_keeps_its_exit_status(
    node: Node, policy: RestartPolicy, after: RecordState, restarts: int
) -> None:
    node.containers.apply(order(policy=policy))
    await node.until_running()
    record = node.journal.get(ID)
    assert record is not None
    node.journal.put(transitions.frozen(record, migration=MIGRATION, peer=peer()))
    node.containers.disown(ID)
    assert not await node.containers.record_exit(ID)
    node.instances.exit(ID, 7)
    assert await node.containers.record_exit(ID)

    frozen = node.journal.get(ID)
    assert frozen is not None
    assert frozen.last_exit is not None
    assert (frozen.state, frozen.started_boot) == (RecordState.FROZEN, "")
    assert (frozen.last_exit.exit_code, frozen.restarts) == (7, restarts)
    assert transitions.aborted(frozen, migration=MIGRATION).state is after
    assert node.containers.lifecycle(ID).completed is (after is RecordState.STOPPED)


async def test_what_was_given_away_is_told_as_ready_until_its_new_node_tells_of_it(
    node: Node,
) -> None:
    """The end of the frozen copy may be seen before the target has been asked."""
    node.containers.apply(order())
    await node.until_running()
    record = node.journal.get(ID)
    assert record is not None
    frozen = transitions.frozen(record, migration=MIGRATION, peer=peer())
    node.journal.put(frozen)
    node.containers.disown(ID)
    await node.instances.freeze(ID)
    assert node.containers.report(ID).ready
    node.journal.put(transitions.released(frozen, epoch=2))
    node.instances.power_cut()
    assert node.containers.report(ID).ready


async def test_a_released_copy_names_the_node_that_it_was_released_to(node: Node) -> None:
    record = transitions.ordered(None, order(), boot=BOOT)
    node.journal.put(record)
    assert node.containers.report(ID).released_to == ""
    frozen = transitions.frozen(record, migration=MIGRATION, peer=peer("node-b"))
    node.journal.put(frozen)
    assert node.containers.report(ID).released_to == ""
    node.journal.put(transitions.released(frozen, epoch=record.epoch + 1))
    assert node.containers.report(ID).released_to == "node-b"
