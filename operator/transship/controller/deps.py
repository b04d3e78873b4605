"""Deps: the dependencies of every loop. app.py composes them; tests compose fakes."""

from __future__ import annotations

from dataclasses import dataclass

from transship.common.clock import Clock
from transship.controller.addresses.claims import AddressBook
from transship.controller.agent_poller import AgentPoller
from transship.controller.cache import ResourceCache
from transship.controller.limits import MoveLimits
from transship.controller.metrics import Metrics
from transship.controller.placement.resolver import Resolver
from transship.controller.ports import Cluster, Recorder


@dataclass(frozen=True)
class Deps:
    cluster: Cluster
    cache: ResourceCache
    agent_poller: AgentPoller
    addresses: AddressBook
    resolver: Resolver
    recorder: Recorder
    metrics: Metrics
    limits: MoveLimits
    clock: Clock
