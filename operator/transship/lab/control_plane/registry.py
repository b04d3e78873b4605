"""The lab's image registry: Debian's docker-registry on the lab's network, without a password."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import yaml

from transship.lab.control_plane.assets import Assets
from transship.lab.control_plane.ports import free_port
from transship.lab.control_plane.readiness import answers, wait_until_ready
from transship.lab.daemons import daemon_alive, start_daemon

REGISTRY = "registry"
# each lab has its own address, so several labs can use the same port
USUAL_PORT = 5000


def start_registry(state_dir: Path, assets: Assets, *, address: str) -> str:
    """Start it if it does not run. Return its HOST:PORT once it is ready."""
    home = state_dir / "registry"
    port = _port(home, address)
    config = home / "config.yml"
    config.write_text(_config(home / "data", address=address, port=port))
    if not daemon_alive(state_dir, REGISTRY):
        start_daemon(state_dir, REGISTRY, [assets.docker_registry, "serve", config])
    wait_until_ready(state_dir, REGISTRY, partial(answers, "/v2/", port=port, address=address))
    return f"{address}:{port}"


def _port(home: Path, address: str) -> int:
    """Chosen once per lab and recorded, because image names contain it."""
    home.mkdir(parents=True, exist_ok=True)
    record = home / "port"
    if not record.exists():
        record.write_text(str(free_port(address=address, preferred=USUAL_PORT)))
    return int(record.read_text())


def _config(data: Path, *, address: str, port: int) -> str:
    config = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(data)},
            "cache": {"blobdescriptor": "inmemory"},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"{address}:{port}"},
    }
    return yaml.safe_dump(config, sort_keys=False)
