"""Settings of kopf that differ from its defaults, each with the reason, and its login."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import kopf

REQUEST_TIMEOUT_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 5
PARALLEL_WORKERS = 100

KOPF_FINALIZER = "transship.dev/kopf"
"""Not ours: with handlers of events alone kopf adds none, and takes its own off wherever it is."""


def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.persistence.finalizer = KOPF_FINALIZER
    settings.posting.enabled = False  # we record our own events
    settings.posting.reporting_component = "transship-operator"
    settings.peering.standalone = True  # who leads is decided by a Lease
    settings.networking.request_timeout = REQUEST_TIMEOUT_SECONDS  # an abort must not wait 300 s
    settings.networking.connect_timeout = CONNECT_TIMEOUT_SECONDS
    settings.watching.connect_timeout = CONNECT_TIMEOUT_SECONDS
    settings.watching.initial_streaming = False  # refused where etcd is older than 3.5.13
    settings.queueing.worker_limit = PARALLEL_WORKERS
    settings.scanning.disabled = True  # our kinds are known; no right to list all CRDs is needed


def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Log kopf in to the cluster that transship.kube.transport uses."""
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**kwargs)
    info = kopf.login_with_service_account(**kwargs)
    if info is None:
        return kopf.login_with_kubeconfig(**kwargs)
    # kopf uses a host name, and the cluster's DNS may be down
    return replace(info, server=_in_cluster() or info.server)


def _in_cluster() -> str | None:
    """The API server's URL, from the variables that the kubelet sets in each container."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
