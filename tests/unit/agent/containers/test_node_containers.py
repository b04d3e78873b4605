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


class FakeExecutor:
    """Answers exec probes."""

    outcome = Outcome(succeeded=True)
    calls = 0

    async def execute(self, argv: tuple[str, ...], *, timeout_seconds: float) -> Outcome:
        self.calls += 1
        return self.outcome


class Node:
    """An agent's containers over a machine in memory; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.instances = FakeInstances()
        self.executor = FakeExecutor()
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
            order.container, address=None, executor=self.executor, known=known,
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


async def test_a_pull_is_reported_and_does_not_hold_up_a_deletion(node: Node) -> None:
    node.instances.registry_answers.clear()
    node.containers.apply(order())
    await node.until(lambda r: r.reason == Reason.PULLING_IMAGE)
    node.containers.delete(ID, epoch=1)
    await node.until_gone()
    assert node.instances.starts == 0


async def test_a_start_that_fails_is_reported_and_tried_again_later(node: Node) -> None:
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


async def test_a_container_that_keeps_ending_waits_for_its_next_start(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    node.exit(1)
    await node.until(lambda r: r.restarts == 1 and r.run is RunState.RUNNING)
    node.exit(1)
    report = await node.until(lambda r: r.reason == Reason.CRASH_LOOP_BACK_OFF)
    assert "status 1" in report.message
    assert node.instances.starts == 2


async def test_a_container_that_never_restarts_stays_stopped_over_an_agents_restart(
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


async def test_a_container_is_stopped_frozen_and_run_as_ordered(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    node.containers.apply(order(state=DesiredState.FROZEN))
    await node.until(lambda r: r.run is RunState.FROZEN)
    node.containers.apply(order(state=DesiredState.STOPPED))
    await node.until(lambda r: r.record is RecordState.STOPPED and r.run is RunState.ABSENT)
    node.containers.apply(order())
    report = await node.until_running()
    assert report.restarts == 0


async def test_a_deletion_removes_the_container_and_can_be_repeated(node: Node) -> None:
    node.containers.apply(order())
    await node.until_running()
    assert node.containers.delete(ID, epoch=1) is not None
    await node.until_gone()
    assert node.containers.delete(ID, epoch=1) is None
    assert node.instances.removed == {ID}
    with pytest.raises(NotFound):
        node.containers.report(ID)


async def test_a_deletion_of_an_older_epoch_is_refused(node: Node) -> None:
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


async def test_an_exit_while_the_agent_was_down_is_found_at_its_start(node: Node) -> None:
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


async def test_after_a_power_cut_a_container_waits_for_the_operator(node: Node) -> None:
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


async def test_the_end_of_a_disowned_copy_counts_as_no_exit(node: Node) -> None:
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


async def test_a_copy_is_supervised_again_after_an_aborted_migration(node: Node) -> None:
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


async def test_an_exit_status_that_is_not_known_yet_is_awaited(node: Node) -> None:
    node.containers.apply(order(policy=RestartPolicy.ON_FAILURE))
    await node.until_running()
    node.instances.exits_to_come[ID] = 0
    node.instances.observed[ID] = ObservedContainer(RunState.EXITED)
    node.containers.on_exit(ID)
    report = await node.until(lambda r: r.record is RecordState.STOPPED)
    assert report.last_exit is not None
    assert (report.last_exit.exit_code, report.last_exit.reason) == (0, "Completed")
    assert node.instances.starts == 1


async def test_a_stop_under_way_ends_before_the_container_is_handed_over(node: Node) -> None:
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


async def test_a_container_is_ready_when_its_probe_succeeds(node: Node) -> None:
    node.executor.outcome = Outcome(succeeded=False, answer="not yet")
    node.containers.apply(order(readiness_probe=PROBE))
    report = await node.until(lambda r: r.reason == Reason.CONTAINER_NOT_READY)
    assert "not yet" in report.message
    assert not report.ready


async def test_probes_that_fail_while_memory_is_missing_stop_nothing(node: Node) -> None:
    """After a post-copy whose source is away it waits for its pages, however long that takes."""
    node.containers.apply(order(liveness_probe=PROBE))
    await node.until_running()
    running = node.instances.observe(ID)
    node.instances.observed[ID] = replace(running, awaits_memory=True)
    node.executor.outcome = Outcome(succeeded=False, answer="no answer in 1 s")
    calls = node.executor.calls
    async with asyncio.timeout(10):
        while node.executor.calls < calls + 3:
            await node.settle()
            await asyncio.sleep(0.01)
    node.executor.outcome = Outcome(succeeded=True)
    node.instances.observed[ID] = running
    await node.until_running()
    assert (node.instances.starts, node.instances.stops) == (1, 0)


async def test_a_failed_liveness_probe_restarts_the_container(node: Node) -> None:
    node.executor.outcome = Outcome(succeeded=False, answer="stuck")
    node.containers.apply(order(liveness_probe=PROBE))
    report = await node.until(lambda r: r.restarts == 1)
    assert report.last_exit is not None
    assert report.last_exit.exit_code == 143


async def test_a_container_that_came_here_is_ready_until_its_probe_fails(node: Node) -> None:
    arrived = transitions.ordered(None, order(readiness_probe=PROBE), boot=BOOT).but(
        started_boot=BOOT
    )
    await node.instances.start(arrived.order)
    node.executor.outcome = Outcome(succeeded=True)
    node.containers.adopt(node.journal.put(arrived), pid=7, lifecycle=None)
    await node.until(lambda r: r.ready)


async def test_while_probes_are_paused_none_runs_and_the_last_result_stands(node: Node) -> None:
    node.containers.apply(order(readiness_probe=PROBE))
    await node.until_running()
    await node.containers.pause_probes(ID)
    calls = node.executor.calls
    await asyncio.sleep(1.1)  # the probe's period
    assert node.executor.calls == calls
    assert node.containers.report(ID).ready
    node.containers.readopt(ID)
    await node.until(lambda _: node.executor.calls > calls)


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
    node.executor.outcome = Outcome(succeeded=False, answer="not yet")
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
    node.executor.outcome = Outcome(succeeded=False, answer="not yet")
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


async def test_the_back_off_goes_on_after_a_migration(node: Node) -> None:
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


async def test_a_completed_container_does_not_run_after_a_migration(node: Node) -> None:
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


async def test_an_unrecorded_exit_is_recorded_before_a_handover(node: Node) -> None:
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
async def test_a_container_that_ends_during_the_freeze_keeps_its_exit_status(
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


async def test_a_released_copy_stays_ready_until_its_new_node_reports_it(
    node: Node,
) -> None:
    """The operator may see the end of the frozen copy before it asks the target."""
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
