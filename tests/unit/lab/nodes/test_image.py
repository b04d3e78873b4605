from pathlib import Path

import pytest

from transship.lab.nodes.image import INPUTS, image_key


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in INPUTS:
        if name != "operator":
            (tmp_path / name).write_text(name)
    package = tmp_path / "operator/transship"
    package.mkdir(parents=True)
    (package / "cli.py").write_text("pass\n")
    return tmp_path


def test_a_change_of_the_code_asks_for_another_image(repository: Path) -> None:
    before = image_key(repository)
    (repository / "operator/transship/cli.py").write_text("raise SystemExit\n")
    assert image_key(repository) != before


def test_a_moved_file_asks_for_another_image(repository: Path) -> None:
    before = image_key(repository)
    package = repository / "operator/transship"
    (package / "cli.py").rename(package / "main.py")
    assert image_key(repository) != before


def test_a_program_that_can_no_longer_be_run_asks_for_another_image(repository: Path) -> None:
    path = repository / "operator/transship/cli.py"
    path.chmod(0o755)
    before = image_key(repository)
    path.chmod(0o644)
    assert image_key(repository) != before


def test_what_is_not_part_of_the_image_asks_for_none(repository: Path) -> None:
    before = image_key(repository)
    (repository / "tests").mkdir()
    (repository / "tests/test_x.py").touch()
    compiled = repository / "operator/transship/__pycache__"
    compiled.mkdir()
    (compiled / "cli.pyc").touch()
    assert image_key(repository) == before


def test_what_is_added_to_the_image_asks_for_another_one(repository: Path) -> None:
    plain = image_key(repository)
    assert image_key(repository, addition="RUN true\n") != plain
