"""Kubeconfig files that carry their certificates inside, so that they work wherever they lie."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import yaml

from transship.common.certificates import Credentials, write_private

CLUSTER = "lab"


def write_kubeconfig(
    path: Path, *, server: str, authority: bytes, user: str, credentials: Credentials
) -> None:
    """Write one cluster, one user, one context; `authority` is the PEM that signed the server."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    cluster = {"server": server, "certificate-authority-data": _base64(authority)}
    identity = {
        "client-certificate-data": _base64(credentials.certificate),
        "client-key-data": _base64(credentials.key),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CLUSTER, "cluster": cluster}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": CLUSTER, "context": {"cluster": CLUSTER, "user": user}}],
        "current-context": CLUSTER,
    }
    write_private(path, yaml.safe_dump(config, sort_keys=False).encode())


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
