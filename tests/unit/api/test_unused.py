"""Nothing is offered, sent or defined that nobody reads."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import sources
from transship import agentapi
from transship.agentapi.message import Message
from transship.api.kinds import KINDS, Kind

INFORMATIONAL = "ports are informational, as in a Pod: every port of the address can be reached"
READ_BY_NOBODY = {
    "Container.ports": INFORMATIONAL,
    "ContainerPort.container_port": INFORMATIONAL,
}
OBEYING = ("agent", "controller", "criu", "memory", "network", "runtime")
TALKING = ("agent", "cli", "controller", "lab")


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, and those in their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_of(field.annotation)
    for part in get_args(annotation):
        yield from models_of(part)


def messages() -> list[type[BaseModel]]:
    names = [module.name for module in pkgutil.iter_modules(agentapi.__path__)]
    modules = [importlib.import_module(f"{agentapi.__name__}.{name}") for name in names]
    models = {value for module in modules for value in vars(module).values() if _is_message(value)}
    return sorted(models, key=lambda model: model.__name__)


def _is_message(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Message) and thing is not Message


def unread(model: type[BaseModel], *, by: tuple[str, ...]) -> list[str]:
    reads, owner = sources.reads(by), model.__name__
    return [f"{owner}.{name}" for name in model.model_fields if not reads.has(owner, name)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_of_a_spec_is_obeyed(kind: Kind) -> None:
    spec = kind.model.model_fields["spec"].annotation
    ignored = {name for model in models_of(spec) for name in unread(model, by=OBEYING)}
    assert sorted(ignored - set(READ_BY_NOBODY)) == []


def test_what_may_be_ignored_is_ignored() -> None:
    specs: list[Any] = [kind.model.model_fields["spec"].annotation for kind in KINDS]
    models = {model for spec in specs for model in models_of(spec)}
    ignored = {name for model in models for name in unread(model, by=OBEYING)}
    assert set(READ_BY_NOBODY) <= ignored


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.__name__)
def test_every_field_of_a_message_is_read(message: type[BaseModel]) -> None:
    assert unread(message, by=TALKING) == []
