"""`make setup`: installs and builds what the other targets of the Makefile need, with progress.

Debian's own Python runs it, before anything is installed. So this module, and the modules that it
imports, may import the standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from transship.common.errors import CommandFailed, TransshipError
from transship.common.processes import run_blocking, run_logged
from transship.lab.cache import Say, new_log
from transship.lab.control_plane.assets import asset_steps
from transship.lab.images import image_store
from transship.lab.images.package_sources import REPOSITORY
from transship.lab.images.sample_images import sample_steps
from transship.lab.nodes import image as node_image
from transship.lab.progress import Progress, Step

INSTALL_TIMEOUT_SECONDS = 1800.0
# a make target, because `make test-unit` needs it without the rest of the setup
ENVIRONMENT = ["make", "--no-print-directory", ".venv/.installed"]


def steps(packages: Sequence[str]) -> list[Step]:
    """All steps in order. The base image is a step if another image has to be built on it."""
    images = [node_image.STEP, *sample_steps()]
    base = [] if all(image.done() for image in images) else [image_store.BASE_STEP]
    installed = [_packages_step(packages), _environment_step()]
    return [*installed, *asset_steps(), *base, *images]


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Which of these Debian packages are not installed."""
    return [package for package in packages if not _is_installed(package)]


def _is_installed(package: str) -> bool:
    question = ["dpkg-query", "--show", "--showformat=${Status}", package]
    try:
        return run_blocking(question).stdout.endswith("ok installed")
    except CommandFailed:
        return False


def _packages_step(packages: Sequence[str]) -> Step:
    subject = "debian-packages"

    def install(_: Say) -> None:
        log = new_log(subject)
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *wanted]):
            run_logged(
                ["apt-get", *words],
                log=log,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                timeout_seconds=INSTALL_TIMEOUT_SECONDS,
            )

    wanted = missing_packages(packages)
    return Step(
        title=f"install Debian packages: {' '.join(wanted)}",
        subject=subject,
        usual_seconds=60,
        done=lambda: not wanted,
        make=install,
    )


def _environment_step() -> Step:
    subject = "python-packages"

    def done() -> bool:
        try:
            run_blocking([ENVIRONMENT[0], "--question", *ENVIRONMENT[1:]], cwd=REPOSITORY)
        except CommandFailed:
            return False
        return True

    def install(_: Say) -> None:
        log = new_log(subject)
        run_logged(ENVIRONMENT, log=log, cwd=REPOSITORY, timeout_seconds=INSTALL_TIMEOUT_SECONDS)

    return Step(
        title="install Python packages into .venv",
        subject=subject,
        usual_seconds=45,
        done=done,
        make=install,
    )


def main(packages: Sequence[str]) -> int:
    try:
        Progress().run(steps(packages))
    except TransshipError:
        # the progress output has shown the error
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
