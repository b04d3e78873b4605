import subprocess
import sys
from pathlib import Path

import pytest

from transship.lab import prepare
from transship.lab.images.package_sources import REPOSITORY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_package_that_is_not_installed_is_missing() -> None:
    wanted = ["dpkg", "no-such-package-anywhere"]
    assert prepare.missing_packages(wanted) == ["no-such-package-anywhere"]


def test_with_an_empty_cache_each_thing_is_a_step_and_has_a_log_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    steps = prepare.steps(["no-such-package-anywhere"])
    missing = [step.title for step in steps if not step.done()]
    assert missing[0] == "install Debian packages: no-such-package-anywhere"
    assert "compile kube-apiserver and kube-controller-manager" in missing
    assert "make the base image debian:forky-slim" in missing
    assert missing[-1] == "build the sample image programs"
    assert len({step.log for step in steps}) == len(steps)


def test_programs_that_the_user_names_are_no_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager"):
        (tmp_path / name).touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    titles = [step.title for step in prepare.steps([])]
    assert "fetch etcd and the registry (Debian packages)" in titles  # the registry is missing
    assert not any("kube" in title for title in titles)


def test_the_set_up_imports_nothing_that_has_to_be_installed_first() -> None:
    code = "import transship.lab.prepare"
    bare = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"]
    done = subprocess.run(
        bare, cwd=REPOSITORY / "operator", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
