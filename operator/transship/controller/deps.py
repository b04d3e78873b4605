"""Deps: what every loop works with. Composed in app.py; tests compose fakes."""

from __future__ import annotations

from dataclasses import dataclass, field

from transship.common.clock import Clock
from transship.controller.addresses import AddressBook
from transship.controller.directory import Directory
from transship.controller.fleet import Fleet
from transship.controller.metrics import Metrics
from transship.controller.ports import Cluster, Recorder
from transship.controller.resolve import Resolver
from transship.controller.turns import Turns


@dataclass(frozen=True)
class Deps:
    cluster: Cluster
    directory: Directory
    fleet: Fleet
    addresses: AddressBook
    resolver: Resolver
    recorder: Recorder
    metrics: Metrics
    turns: Turns
    clock: Clock
    crowd: set[str] = field(default_factory=set)
    """The migrations that run now in this process."""
