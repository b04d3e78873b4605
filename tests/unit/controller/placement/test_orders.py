"""When a new order is needed, and what references in a container's texts become."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.resources import placement
from transship.controller.placement.orders import expand, order_digest


def digest(address: str = "10.0.0.1", **spec: Any) -> str:
    return order_digest(placement(**spec).spec, addresses=(address,))


def test_only_what_an_agent_is_ordered_changes_the_digest() -> None:
    assert digest() == digest(target_node="node-b", migration={"backoffLimit": 1})
    changed = {
        digest(),
        digest(state="Frozen"),
        digest(container={"image": "web:2"}),
        digest(volumes=[{"name": "data", "emptyDir": {}}]),
        digest(address="10.0.0.2"),
    }
    assert len(changed) == 5


def test_a_default_written_out_is_the_same_order() -> None:
    assert digest(container={"image": "registry/web:1", "stdin": False}) == digest()


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(NAME)", "web"),
        ("a $(NAME) b $(NAME)", "a web b web"),
        ("$(OTHER)", "$(OTHER)"),
        ("$$(NAME)", "$(NAME)"),
        ("$NAME ${NAME} $", "$NAME ${NAME} $"),
        ("$(NAME", "$(NAME"),
        ("$(NAME $$", "$(NAME $"),
        ("$(cat $(NAME)) $(NAME)", "$(cat $(NAME)) web"),
        ("$(echo $$)", "$(echo $$)"),
        ("$()", "$()"),
    ],
)
def test_references_are_expanded_as_in_a_pod(text: str, expanded: str) -> None:
    assert expand(text, {"NAME": "web"}) == expanded
