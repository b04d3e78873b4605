"""Writes the files that are generated from the models: crds/, docs/api.md and a policy.

Run it as `python -m transship.api.crd.generate`. `--check` only compares. It is the only module of
this package that reads or writes files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from transship.api.crd import admission, reference
from transship.api.crd import definitions as crd

POLICY = Path("manifests/access/placement-policy.yaml")


def outputs() -> Mapping[Path, str]:
    """Return the path, relative to the repository's root, and content of every generated file."""
    crds = {Path("crds") / name: content for name, content in crd.manifests().items()}
    policy = crd.yaml_file(*admission.policy())
    return {**crds, Path("docs/api.md"): reference.page(), POLICY: policy}


def stale(root: Path) -> list[Path]:
    """Return the generated files that are missing, differ, or should not exist."""
    wanted = outputs()
    differing = [path for path, content in wanted.items() if _read(root / path) != content]
    present = {path.relative_to(root) for path in (root / "crds").glob("*")}
    return sorted([*differing, *(present - set(wanted))])


def write(root: Path) -> None:
    for path in stale(root):
        (root / path).unlink(missing_ok=True)
    for path, content in outputs().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Write crds/, docs/api.md and the policy.")
    parser.add_argument("--check", action="store_true", help="only print what differs")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the repository")
    arguments = parser.parse_args()
    differing = stale(arguments.root)
    if arguments.check:
        sys.stderr.writelines(f"{path} is not up to date: run make crds\n" for path in differing)
        return 1 if differing else 0
    write(arguments.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
