import stat
from base64 import b64decode
from pathlib import Path

import yaml

from transship.common.certificates import Credentials
from transship.lab.control_plane.credentials import write_kubeconfig


def test_a_kubeconfig_carries_its_certificates_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "configs/operator.yaml"
    write_kubeconfig(
        path,
        server="https://10.0.0.1:6443",
        authority=b"ca",
        user="transship:operator",
        credentials=Credentials(b"certificate", b"key"),
    )
    config = yaml.safe_load(path.read_text())
    context = config["contexts"][0]["context"]
    assert config["current-context"] == config["contexts"][0]["name"]
    assert context["user"] == config["users"][0]["name"] == "transship:operator"
    cluster = config["clusters"][0]["cluster"]
    assert cluster["server"] == "https://10.0.0.1:6443"
    assert b64decode(cluster["certificate-authority-data"]) == b"ca"
    user = config["users"][0]["user"]
    assert b64decode(user["client-certificate-data"]) == b"certificate"
    assert b64decode(user["client-key-data"]) == b"key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
