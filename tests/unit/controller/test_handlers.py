"""What becomes of an object that cannot be read."""

from __future__ import annotations

from fakes.resources import node_agent
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.controller.handlers import parsed


class TestHandlers:
    def test_an_object_that_cannot_be_read_is_left_alone(self) -> None:
        assert parsed(ContainerPlacement, {"metadata": {"name": "x"}}) is None
        assert parsed(NodeAgent, node_agent("node-a").dump()) is not None
