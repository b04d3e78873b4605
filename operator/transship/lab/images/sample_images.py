"""The sample images `counter`, `redis` and `witness`, and `programs` for some tests.

They are built once into the cache, as OCI layouts, and pushed to the registry of each lab. The
image `programs` is large, so only the tests that need it push it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transship.common.errors import NotFound
from transship.common.processes import run_blocking
from transship.lab.cache import Say, digest, ensure_entry, has_entry
from transship.lab.images import image_store
from transship.lab.progress import Step

SOURCES = Path(__file__).parent
SAMPLES = ("counter", "redis", "witness")
ON_DEMAND = ("programs",)
USUAL_SECONDS = {"counter": 10, "redis": 10, "witness": 5, "programs": 120}
VERSION = "1"
PUSH_TIMEOUT_SECONDS = 120.0


def sample_steps() -> list[Step]:
    """One for each image."""
    return [_step(name) for name in (*SAMPLES, *ON_DEMAND)]


def push_sample_images(registry: str, *, say: Say = print) -> None:
    """Push the samples of every lab to REGISTRY/NAME:1, over plain HTTP."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda name: push_sample_image(registry, name, say=say), SAMPLES):
            pass


def push_sample_image(registry: str, name: str, *, say: Say = print) -> None:
    _push(_ensure(name, say=say), sample_name(registry, name))


def sample_name(registry: str, sample: str) -> str:
    return f"{registry}/{sample}:{VERSION}"


def _ensure(name: str, *, say: Say) -> Path:
    tag = f"localhost/{name}:{VERSION}"

    def make(draft: Path) -> None:
        with image_store.built(SOURCES / name, tag, say=say, step=_step(name)) as image:
            image_store.export(image, draft)

    return ensure_entry(_entry(name), make)


def _entry(name: str) -> str:
    files = sorted(path for path in (SOURCES / name).rglob("*") if path.is_file())
    key = digest(part for path in files for part in (path.name.encode(), path.read_bytes()))
    return f"sample-{name}-{key}"


def _step(name: str) -> Step:
    return Step(
        title=f"build the sample image {name}",
        subject=f"sample-{name}",
        usual_seconds=USUAL_SECONDS[name],
        done=lambda: has_entry(_entry(name)),
        make=lambda say: _ensure(name, say=say),
    )


def _push(layout: Path, name: str) -> None:
    host = name.partition(":")[0]
    direct = {**os.environ, "NO_PROXY": host, "no_proxy": host}
    try:
        copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"]
        run_blocking(
            [*copy, f"oci:{layout}", f"docker://{name}"],
            env=direct,
            timeout_seconds=PUSH_TIMEOUT_SECONDS,
        )
    except FileNotFoundError as e:
        raise NotFound("running skopeo: it is not installed", hint="make setup") from e
