"""Everything that is broken on purpose, by name: how it is done, for how long, and how undone.

Each is done while the move stands still at a step, and undone after it has gone on for a while. All
of them can be undone more than once, and when they were never done.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from transship.api.migration import StepName
from transship.lab.control_plane.servers import API_SERVER
from transship.lab.daemons import daemon_alive, signal_daemon
from transship.lab.nodes.network import parse_rate
from transship.lab.proof import connections, faults, node_faults
from transship.lab.proof.breakage import Act, Breakage, Ending, Missed
from transship.lab.proof.scene import OPERATOR, Scene, Side
from transship.lab.state import MACHINE
from transship.lab.state import OPERATOR as OPERATORS_HOST

CUT_SECONDS = 7.0  # longer than the 5 s that an agent waits for another's answer
HANG_SECONDS = 7.0
API_AWAY_SECONDS = 60.0
API_CUT_SECONDS = 12.0  # longer than the client's 10 s
SLOW_SECONDS = 6.0
DOWN_SECONDS = 1.0
SPREADING_SECONDS = 1.0  # from the API server to the operator, and from there to an agent's door
SLOW_RATE = "1mbit"
ILL_SECONDS = 3.0
TOOL_SECONDS = 2.0
DUMP_HANGS_SECONDS = 14.0  # longer than the agent waits for a dump
RESTORE_HANGS_SECONDS = 25.0  # and for a restore
ONE_YEAR_DAYS = 365

CRIU, RUNC, CONMON = ("criu", "swrk"), ("runc", "restore"), ("conmon", "--api-version")
PAGE_SERVER = ("transship.memory.page_server.process",)
COPYING = frozenset({StepName.COPY_FILES, StepName.COPY_MEMORY})
DUMPING = frozenset({StepName.FREEZE, StepName.DUMP})
RESTORING = frozenset({StepName.SEND_STATE, StepName.RESTORE})
KEEPING = frozenset(StepName) - {
    StepName.PREPARE, StepName.COPY_FILES, StepName.RESUME, StepName.DESTROY
}  # fmt: skip
STILL_KEEPING = frozenset({StepName.RESUME})
"""After the release a page server has pages to give in a post-copy alone."""


def _agent_killed(side: Side) -> Breakage:
    return Breakage(
        f"{side}'s agent killed",
        lambda scene: faults.kill(scene.directory, scene.state, scene.agent(side)),
        lambda scene: faults.restart(scene.directory, scene.state, scene.agent(side)),
        DOWN_SECONDS,
    )


def _agent_hung(side: Side) -> Breakage:
    return Breakage(
        f"{side}'s agent hung",
        lambda scene: faults.hang(scene.directory, scene.agent(side)),
        lambda scene: faults.resume(scene.directory, scene.agent(side)),
        HANG_SECONDS,
    )


def _power_cut(side: Side) -> Breakage:
    return Breakage(
        f"{side}'s power cut",
        lambda scene: faults.kill(scene.directory, scene.state, scene.power(side)),
        lambda scene: faults.restart(scene.directory, scene.state, scene.power(side)),
        DOWN_SECONDS,
        dies=side,
    )


def _link(
    name: str, ends: Callable[[Scene], tuple[str, str]], *, one_way: bool = False,
    percent: int = 100, seconds: float = CUT_SECONDS,
) -> Breakage:  # fmt: skip
    def do(scene: Scene) -> None:
        source, target = ends(scene)
        faults.partition(
            scene.directory, scene.state, source=source, target=target,
            one_way=one_way, percent=percent,
        )  # fmt: skip

    return Breakage(name, do, _heal, seconds)


def _heal(scene: Scene) -> None:
    faults.heal(scene.directory, scene.state)


def _half_open(ends: Callable[[Scene], tuple[str, str]]) -> Act:
    """The connections that there are go dead without a word; new ones work."""

    def do(scene: Scene) -> None:
        one, other = ends(scene)
        directory, state = scene.directory, scene.state
        if flows := connections.between(directory, state, one, other):
            faults.partition(directory, state, source=one, target=other, flows=flows)

    return do


def _slow(rate: str | None) -> Act:
    bits = None if rate is None else parse_rate(rate)
    return lambda scene: faults.limit_rate(scene.directory, scene.state, bits)


def _restart_agent(side: Side) -> Act:
    return lambda scene: faults.restart(scene.directory, scene.state, scene.agent(side))


def _on_node(work: Callable[[Path, str], object], side: Side) -> Act:
    return lambda scene: work(scene.directory, scene.node(side))


def _disk_full(side: Side) -> Breakage:
    do, undo = _on_node(node_faults.fill_disk, side), _on_node(node_faults.free_disk, side)
    return Breakage(f"{side}'s disk full", do, undo, ILL_SECONDS)


def _journal_sealed(side: Side) -> Breakage:
    do, undo = _on_node(node_faults.seal_journal, side), _on_node(node_faults.unseal_journal, side)
    return Breakage(f"{side}'s journal unwritable", do, undo, ILL_SECONDS)


def _out_of_descriptors(side: Side) -> Breakage:
    do, undo = (
        _on_node(node_faults.take_descriptors, side),
        _on_node(node_faults.give_descriptors, side),
    )
    return Breakage(f"{side}'s agent out of descriptors", do, undo, ILL_SECONDS)


def _out_of_memory(side: Side) -> Breakage:
    def undo(scene: Scene) -> None:
        """As a service manager does with one that was killed."""
        if not daemon_alive(scene.directory, scene.agent(side).daemon):
            _restart_agent(side)(scene)
        node_faults.give_memory(scene.state, scene.node(side))

    return Breakage(
        f"{side}'s agent out of memory",
        lambda scene: node_faults.take_memory(scene.directory, scene.state, scene.node(side)),
        undo,
        ILL_SECONDS,
    )


def _certificate_over(side: Side) -> Breakage:
    def certified(days: int) -> Act:
        def act(scene: Scene) -> None:
            node_faults.certify(scene.directory, scene.state, scene.node(side), days=days)
            _restart_agent(side)(scene)

        return act

    return Breakage(
        f"{side}'s certificate expired", certified(0), certified(ONE_YEAR_DAYS), ILL_SECONDS
    )


def _hunted(
    name: str, side: Side, words: tuple[str, ...], treat: Callable[[int], object],
    *, steps: frozenset[StepName], seconds: float = TOOL_SECONDS, children: bool = False,
    may_lose_memory: bool = False, post_copy_steps: frozenset[StepName] = frozenset(),
) -> Breakage:  # fmt: skip
    """Programs of a node that come by meanwhile are treated so."""
    hunters: dict[str, node_faults.Hunter] = {}

    def do(scene: Scene) -> None:
        node = scene.node(side)
        hunter = node_faults.Hunter(scene.state, node, words, treat, children=children)
        hunters[scene.container] = hunter
        hunter.start()

    def undo(scene: Scene) -> None:
        hunter = hunters.pop(scene.container, None)
        if hunter is None:
            return
        hunter.stop()
        if not hunter.hit:
            raise Missed(f"no {' '.join(words)} came by on {scene.node(side)}")

    return Breakage(
        name, do, undo, seconds,
        steps=steps, post_copy_steps=post_copy_steps, may_lose_memory=may_lose_memory,
    )  # fmt: skip


def _edit_back(scene: Scene) -> None:
    scene.cluster.edit(scene.placement, {"targetNode": scene.source})


def _delete_migration(scene: Scene) -> None:
    scene.cluster.delete_migration(scene.cluster.migrations(scene.placement)[-1].metadata.name)


def _agents(scene: Scene) -> tuple[str, str]:
    return scene.source, scene.target


def _operator_and_server(_scene: Scene) -> tuple[str, str]:
    return OPERATORS_HOST, MACHINE


BREAKAGES: tuple[Breakage, ...] = (
    *(make(side) for side in Side for make in (_agent_killed, _agent_hung, _power_cut)),
    Breakage(
        "operator killed",
        lambda scene: faults.kill(scene.directory, scene.state, OPERATOR),
        lambda scene: faults.restart(scene.directory, scene.state, OPERATOR),
        DOWN_SECONDS,
    ),
    Breakage(
        "API server away",
        lambda scene: signal_daemon(scene.directory, API_SERVER, signal.SIGSTOP),
        lambda scene: signal_daemon(scene.directory, API_SERVER, signal.SIGCONT),
        API_AWAY_SECONDS,
    ),
    _link("agents cut", _agents),
    _link("source not heard", _agents, one_way=True),
    _link("target not heard", lambda scene: (scene.target, scene.source), one_way=True),
    _link("operator and source cut", lambda scene: (OPERATORS_HOST, scene.source)),
    _link("operator and target cut", lambda scene: (OPERATORS_HOST, scene.target)),
    _link("operator and API server cut", _operator_and_server, seconds=API_CUT_SECONDS),
    Breakage("connections half-open", _half_open(_agents), _heal, CUT_SECONDS),
    Breakage("operator's watches half-open", _half_open(_operator_and_server), _heal, CUT_SECONDS),
    _link("1 % loss", _agents, percent=1, seconds=SLOW_SECONDS),
    Breakage("slow link", _slow(SLOW_RATE), _slow(None), SLOW_SECONDS),
    *(
        make(side)
        for side in Side
        for make in (
            _disk_full,
            _journal_sealed,
            _out_of_memory,
            _out_of_descriptors,
            _certificate_over,
        )
    ),
    _hunted("CRIU killed in the dump", Side.SOURCE, CRIU, node_faults.killed, steps=DUMPING),
    _hunted("CRIU fails in the dump", Side.SOURCE, CRIU, node_faults.failing, steps=DUMPING),
    _hunted(
        "CRIU hangs in the dump",
        Side.SOURCE,
        CRIU,
        node_faults.stopped,
        steps=DUMPING,
        seconds=DUMP_HANGS_SECONDS,
    ),
    _hunted("CRIU killed in the restore", Side.TARGET, CRIU, node_faults.killed, steps=RESTORING),
    _hunted("CRIU fails in the restore", Side.TARGET, CRIU, node_faults.failing, steps=RESTORING),
    _hunted(
        "CRIU hangs in the restore",
        Side.TARGET,
        CRIU,
        node_faults.stopped,
        steps=RESTORING,
        seconds=RESTORE_HANGS_SECONDS,
    ),
    _hunted("runc killed in the restore", Side.TARGET, RUNC, node_faults.killed, steps=RESTORING),
    _hunted(
        "runc hangs in the restore",
        Side.TARGET,
        RUNC,
        node_faults.stopped,
        steps=RESTORING,
        seconds=RESTORE_HANGS_SECONDS,
    ),
    _hunted(
        "conmon killed in the restore", Side.TARGET, CONMON, node_faults.killed, steps=RESTORING
    ),
    _hunted("source's conmon killed", Side.SOURCE, CONMON, node_faults.killed, steps=COPYING),
    _hunted(
        "page server killed",
        Side.TARGET,
        PAGE_SERVER,
        node_faults.killed,
        steps=KEEPING,
        post_copy_steps=STILL_KEEPING,
        children=True,
    ),
    _hunted(
        "page server and its guard killed",
        Side.TARGET,
        PAGE_SERVER,
        node_faults.killed,
        steps=KEEPING,
        post_copy_steps=STILL_KEEPING,
        may_lose_memory=True,
    ),
    Breakage("edited back", _edit_back, ending=Ending.STAYS, lead_seconds=SPREADING_SECONDS),
    Breakage(
        "migration deleted", _delete_migration, ending=Ending.STAYS, lead_seconds=SPREADING_SECONDS
    ),
    Breakage(
        "placement deleted",
        lambda scene: scene.cluster.delete(scene.placement),
        ending=Ending.DELETED,
    ),
)
