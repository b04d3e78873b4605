from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from transship.agent.__main__ import parse, settings_of

FLAGS = ["--node=n", "--address=127.0.0.1", "--ca=/tls/ca", "--cert=/tls/crt", "--key=/keys/key"]


def test_the_agents_files_have_the_modes_that_containers_need(tmp_path: Path) -> None:
    """Whatever umask its service has; here it ends at once, for want of a certificate."""
    folders = [f"--state-dir={tmp_path}/state", f"--runtime-dir={tmp_path}/run"]
    command = [sys.executable, "-m", "transship.agent", *FLAGS, *folders]
    before = os.umask(0o077)
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    finally:
        os.umask(before)
    assert done.returncode == 1
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o711


def test_no_container_gets_the_agents_credentials() -> None:
    layout = settings_of(parse([*FLAGS, "--kubeconfig=/k/config", "--host-root=/host"])).layout
    assert layout.host_root == Path("/host")
    assert set(layout.secrets) == {Path("/tls"), Path("/keys"), Path("/k/config")}
    assert settings_of(parse(FLAGS)).layout.host_root == Path("/")
