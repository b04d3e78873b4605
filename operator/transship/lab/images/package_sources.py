"""Gives builds the machine's access to package sources: mirrors, proxies, trusted certificates.

A build has its own file system, without the machine's settings. They are mounted during the build
and do not get into the image.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from transship.common.errors import CommandFailed
from transship.common.processes import run_blocking

REPOSITORY = Path(__file__).resolve().parents[4]
SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
BUNDLE_IN_BUILD = "/run/machine-ca.crt"
# the settings of pip that say where packages come from, without paths on this machine
PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")


@contextlib.contextmanager
def volumes_for_builds() -> Iterator[list[str]]:
    """Bind mounts, SOURCE:TARGET:ro, with the machine's settings for pip."""
    settings = _pip_settings()
    volumes = []
    with tempfile.TemporaryDirectory(prefix="transship-build-") as folder:
        lines = [f"{key} = {settings[key]}" for key in PIP_KEYS if key in settings]
        bundle = _bundle(settings)
        if bundle is not None:
            lines.append(f"cert = {BUNDLE_IN_BUILD}")
            volumes.append(f"{bundle}:{BUNDLE_IN_BUILD}:ro")
        config = Path(folder) / "pip.conf"
        config.write_text("\n".join(["[global]", *lines, ""]))
        yield [*volumes, f"{config}:/etc/pip.conf:ro"]


def debian_mirror() -> list[str]:
    """The machine's apt mirror as one word, if it is a Debian mirror; otherwise no word."""
    question = ["--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    try:
        sites = run_blocking(["apt-get", "indextargets", *question]).stdout.split()
    except CommandFailed:
        return []
    return sites[:1]


def parse_pip_config(text: str) -> Mapping[str, str]:
    """The settings in the output of `pip config list`. Environment variables win, as in pip."""
    settings = re.findall(r"^(:env:|global|install)\.([\w-]+)='(.*)'$", text, re.MULTILINE)
    from_files = {key: value for section, key, value in settings if section != ":env:"}
    from_environment = {key: value for section, key, value in settings if section == ":env:"}
    merged = {**from_files, **from_environment}
    return {key.removeprefix("default-"): value for key, value in merged.items()}


def pip() -> list[str]:
    """The command of the repository's pip; Debian's Python may have none."""
    python = REPOSITORY / ".venv/bin/python"
    words = [str(python) if python.exists() else sys.executable, "-m", "pip"]
    return [*words, "--disable-pip-version-check"]


def _pip_settings() -> Mapping[str, str]:
    return parse_pip_config(run_blocking([*pip(), "config", "list"]).stdout)


def _bundle(settings: Mapping[str, str]) -> Path | None:
    named = (settings.get("cert"), os.environ.get("SSL_CERT_FILE"), str(SYSTEM_BUNDLE))
    return next((Path(name) for name in named if name and Path(name).is_file()), None)
