from pathlib import Path

import pytest

from transship.lab.images import package_sources
from transship.lab.images.package_sources import parse_pip_config, volumes_for_builds


def test_the_environment_wins_over_the_files_as_in_pip() -> None:
    text = ":env:.index-url='https://b/simple'\nglobal.index-url='https://a/simple'\n"
    assert parse_pip_config(text) == {"index-url": "https://b/simple"}


def test_default_timeout_is_the_environments_name_of_timeout() -> None:
    assert parse_pip_config(":env:.default-timeout='180'\n") == {"timeout": "180"}


def test_sections_of_other_commands_do_not_count() -> None:
    assert parse_pip_config("freeze.timeout='10'\n") == {}


def test_a_build_gets_the_machines_index_but_no_path_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.touch()
    settings = {"index-url": "https://a/simple", "find-links": "/wheels", "cert": str(bundle)}
    monkeypatch.setattr(package_sources, "_pip_settings", lambda: settings)
    with volumes_for_builds() as volumes:
        trust, config = volumes
        text = Path(config.split(":")[0]).read_text()
    assert trust == f"{bundle}:/run/machine-ca.crt:ro"
    assert text == "[global]\nindex-url = https://a/simple\ncert = /run/machine-ca.crt\n"
    assert not Path(config.split(":")[0]).exists()
