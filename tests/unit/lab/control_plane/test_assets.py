from pathlib import Path

import pytest

from transship.common.errors import NotFound
from transship.lab.control_plane import assets
from transship.lab.control_plane.assets import MODULE, ensure_assets, module_digest, version_of


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("1.26.0", (1, 26, 0)),
        ("go version devel", ()),
    ],
)
def test_a_version_is_the_first_dotted_number(text: str, version: tuple[int, ...]) -> None:
    assert version_of(text) == version


def test_versions_compare_by_number_and_an_unknown_one_is_the_oldest() -> None:
    assert version_of("go1.9.7") < version_of("go1.26") < version_of("go1.26.1")
    assert version_of("unknown") < version_of("1.0")


def test_the_programs_named_by_the_user_are_taken_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "docker-registry"]
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = ensure_assets(pytest.fail)
    assert found.kube_apiserver == tmp_path / "kube-apiserver"
    assert found.docker_registry == tmp_path / "docker-registry"
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_programs_that_lacks_one_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etcd").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(NotFound, match="looking for kube-apiserver in KUBEBUILDER_ASSETS="):
        ensure_assets(pytest.fail)


def test_the_control_plane_is_built_again_when_its_sources_change(tmp_path: Path) -> None:
    for name in ("go.mod", "go.sum", "main.go"):
        (tmp_path / name).write_bytes((MODULE / name).read_bytes())
    assert module_digest(tmp_path) == module_digest(MODULE)
    with (tmp_path / "main.go").open("a") as file:
        file.write("// changed\n")
    assert module_digest(tmp_path) != module_digest(MODULE)


def test_the_control_plane_says_the_version_that_the_module_requires() -> None:
    flags = assets._linker_flags()
    assert "version.gitVersion=v1." in flags
    assert "version.gitMajor=1 " in flags
