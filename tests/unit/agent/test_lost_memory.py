"""What is ended when both processes of a keeper were killed: the instance that it was of, only."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from transship.agent import keeper_words
from transship.agent.copies import NodeCopies
from transship.agent.instances import Instances
from transship.agent.keepers import KeeperDead, PageKeeper
from transship.protocol.containers import ContainerOrder
from transship.runtime.layout import Layout

CONTAINER = "c"


@dataclass
class Processes:
    """Stands for runtime and network: which instance runs, and which were killed."""

    layout: Layout
    instance: int = 1
    killed: list[int] = field(default_factory=list)

    async def kill(self, container: str) -> None:
        assert container == CONTAINER
        self.killed.append(self.instance)

    async def start(self, container: str) -> None:
        assert PageKeeper.find(self.layout, container) is None  # or it could be taken for the old
        self.instance += 1

    def create(self, *_: object) -> None: ...

    def serve(self, *_: object) -> None: ...


@pytest.fixture
def node(tmp_path: Path) -> Processes:
    """With a container whose keeper is dead."""
    layout = Layout(runtime_dir=tmp_path)
    work = layout.images(CONTAINER) / "work"
    work.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(work)  # the address of a socket has 108 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(keeper_words.SOCKET_NAME)
    os.chdir(before)
    return Processes(layout)


def copies(node: Processes) -> NodeCopies:
    return NodeCopies(cast("Any", node), cast("Any", None))


async def start_anew(node: Processes) -> None:
    order = cast("ContainerOrder", ContainerOrder.model_construct(id=CONTAINER, addresses=()))
    await Instances(cast("Any", node), cast("Any", node)).start(order)


async def test_it_is_ended_before_anybody_is_told(node: Processes) -> None:
    with pytest.raises(KeeperDead):
        await copies(node).settle(CONTAINER)
    assert node.killed == [1]


async def test_it_is_ended_however_often_that_is_asked_for(node: Processes) -> None:
    ours = copies(node)
    assert await ours.lacks_memory(CONTAINER)
    await ours.lose_memory(CONTAINER)
    await ours.lose_memory(CONTAINER)
    assert node.killed == [1]
    assert not ours.images(CONTAINER).exists()


async def test_the_instance_after_it_is_left_alone(node: Processes) -> None:
    ours = copies(node)
    with pytest.raises(KeeperDead):
        await ours.settle(CONTAINER)
    await start_anew(node)
    await ours.lose_memory(CONTAINER)
    assert (node.instance, node.killed) == (2, [1])
