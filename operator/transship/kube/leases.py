"""Leases (coordination.k8s.io): an agent's heartbeat, and the election of the leading operator.

A lease is renewed with a resourceVersion check, so two holders never both have it. The clocks of
two machines are never compared: a lease has expired when this process has observed it unchanged for
longer than its duration, by its own clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from transship.api.reasons import Reason
from transship.common.clock import Clock, SystemClock
from transship.common.errors import NotFound, Refused
from transship.kube.client import KubeClient
from transship.kube.paths import path
from transship.kube.transport import Request

SYSTEM_NAMESPACE = "transship-system"
ROOT = "/apis/coordination.k8s.io/v1"
# an agent's certificate allows only the lease with this prefix and its node's name
AGENT_PREFIX = "agent-"


@dataclass(frozen=True)
class Lease:
    """A lease and its holder.

    renewed: the holder's time stamp, only compared for equality.
    unrenewed_seconds: for how long this process has observed it unchanged.
    """

    name: str
    holder: str
    renewed: str
    duration_seconds: int
    unrenewed_seconds: float = 0.0

    @property
    def expired(self) -> bool:
        return self.unrenewed_seconds > self.duration_seconds


def agent_lease(node: str) -> str:
    """Return the name of the lease of a node's agent."""
    return AGENT_PREFIX + node


class Leases:
    """The leases of one namespace."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str = SYSTEM_NAMESPACE,
        clock: Clock | None = None,
    ) -> None:
        self._transport = client.transport
        self._namespace = namespace
        self._clock = clock or SystemClock()
        # holder and time stamp of each lease, and since when they have been the same
        self._observed: dict[str, tuple[tuple[str, str], float]] = {}

    async def list(self) -> tuple[Lease, ...]:
        request = Request("GET", self._path(), f"listing leases of {self._namespace}")
        answer = await self._transport.send(request)
        return tuple(self._observe(item) for item in answer.get("items", ()))

    async def renew(self, name: str, *, holder: str, duration_seconds: int) -> Lease:
        """Acquire or renew the lease.

        Raises Refused (LeaseHeld) while another holder's lease has not expired, and Conflict if
        another one acquired it at the same time.
        """
        try:
            present = await self._read(name)
        except NotFound:
            return await self._create(name, holder=holder, duration_seconds=duration_seconds)
        now, lease = self._clock.now(), self._observe(present)
        if lease.holder not in {"", holder} and not lease.expired:
            raise Refused(
                f"taking lease {name}: {lease.holder} holds it until it expires",
                reason=Reason.LEASE_HELD,
            )
        spec = _spec(holder, duration_seconds, now=now, since=_since(present, holder))
        request = Request(
            "PUT", self._path(name), f"renewing lease {name}", body={**present, "spec": spec}
        )
        return self._observe(await self._transport.send(request))

    async def release(self, name: str, *, holder: str) -> bool:
        """Release the lease, so that the next holder need not wait until it expires.

        Returns False if it is not this holder's. Raises Conflict if it has changed meanwhile.
        """
        try:
            present = await self._read(name)
        except NotFound:
            return False
        if self._observe(present).holder != holder:
            return False
        released = {"holderIdentity": "", "renewTime": micro_time(self._clock.now())}
        # the body has the resourceVersion that was read
        body = {**present, "spec": {**present["spec"], **released}}
        await self._transport.send(
            Request("PUT", self._path(name), f"releasing lease {name}", body=body)
        )
        return True

    async def _create(self, name: str, *, holder: str, duration_seconds: int) -> Lease:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": self._namespace},
            "spec": _spec(holder, duration_seconds, now=self._clock.now(), since=None),
        }
        request = Request("POST", self._path(), f"creating lease {name}", body=body)
        return self._observe(await self._transport.send(request))

    async def _read(self, name: str) -> dict[str, Any]:
        return await self._transport.send(Request("GET", self._path(name), f"reading lease {name}"))

    def _observe(self, document: Mapping[str, Any]) -> Lease:
        lease, now = _parse(document), self._clock.monotonic()
        state = (lease.holder, lease.renewed)
        known, since = self._observed.get(lease.name, (None, now))
        if known != state:
            since = now
            self._observed[lease.name] = (state, now)
        return replace(lease, unrenewed_seconds=now - since)

    def _path(self, name: str | None = None) -> str:
        return path(ROOT, "leases", namespace=self._namespace, name=name)


def micro_time(moment: datetime) -> str:
    """Format a time as metav1.MicroTime."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _since(document: Mapping[str, Any], holder: str) -> str | None:
    spec = document.get("spec", {})
    acquired: str | None = spec.get("acquireTime")
    return acquired if spec.get("holderIdentity") == holder else None


def _spec(
    holder: str, duration_seconds: int, *, now: datetime, since: str | None
) -> dict[str, Any]:
    return {
        "holderIdentity": holder,
        "leaseDurationSeconds": duration_seconds,
        "acquireTime": since or micro_time(now),
        "renewTime": micro_time(now),
    }


def _parse(document: Mapping[str, Any]) -> Lease:
    spec = document.get("spec") or {}
    return Lease(
        name=document["metadata"]["name"],
        holder=spec.get("holderIdentity") or "",
        renewed=spec.get("renewTime") or "",
        duration_seconds=spec.get("leaseDurationSeconds") or 0,
    )
