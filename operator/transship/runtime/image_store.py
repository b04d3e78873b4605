"""The store of images: each is pulled and unpacked once, by digest, and then only read.

skopeo pulls and umoci unpacks. A directory with the name of a digest is complete, because a draft
is renamed to that name at last. The store remembers the digests of references, so that a known
image needs no network.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from pydantic import ValidationError

from transship.api.reasons import Reason
from transship.common.errors import CommandFailed, DeadlineExceeded, InvalidInput, TransshipError
from transship.common.processes import run
from transship.linux import mounts
from transship.runtime import image_format
from transship.runtime.image_format import ImageConfig, Reference, parse_reference

RESOLVE_TIMEOUT_SECONDS = 30.0
PULL_TIMEOUT_SECONDS = 1800.0
"""For a large image over a slow line."""
POLICY = Path("/etc/containers/policy.json")
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Image:
    """An unpacked image; rootfs is shared by all its containers and never written."""

    digest: str
    config: ImageConfig
    rootfs: Path


class ImageStore:
    """The images of this node; `insecure_registries` (HOST:PORT) are used without verified TLS."""

    def __init__(self, root: Path, *, insecure_registries: Collection[str] = ()) -> None:
        self._root = root
        self._insecure = frozenset(insecure_registries)
        self._pulling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._held: Counter[str] = Counter()
        self._drafts: set[Path] = set()

    async def pull(self, reference: str, *, digest: str | None = None) -> Image:
        """Return the image of a reference, or that with `digest` in its repository.

        An image known by digest is not looked up in the registry. Raises TransshipError.
        """
        wanted = parse_reference(reference)
        digest = digest or wanted.digest or await self._resolve(wanted)
        async with self._pulling[digest]:
            if (image := self.find(digest)) is None:
                image = await self._fetch(wanted, digest=digest)
        if wanted.digest is None:
            self._remember(wanted, digest=digest)
        # `prune` reads the time of the last use
        with suppress(OSError):
            os.utime(self._directory(digest))
        return image

    def find(self, digest: str) -> Image | None:
        """Return an image of the store."""
        directory = self._directory(digest)
        if not directory.exists():
            return None
        blob = (directory / "config.json").read_bytes()
        return Image(digest, image_format.parse_config(blob), directory / "rootfs")

    @contextmanager
    def held(self, digest: str) -> Iterator[None]:
        """Protect an image from `prune`; enter the context without an await after `pull`."""
        self._held[digest] += 1
        try:
            yield
        finally:
            self._held[digest] -= 1

    async def prune(
        self, in_use: Collection[str], *, unused_seconds: float = 0.0
    ) -> tuple[str, ...]:
        """Delete images that are not in use, and half unpacked ones that a crash has left.

        Images stay that were pulled within the last `unused_seconds` or that a mount names. Those
        to delete are moved away before the first await, so that a pull fetches them again. Returns
        the digests.
        """
        before = time.time() - unused_seconds
        drafts = [draft for draft in self._root.glob("draft-*") if self._is_left(draft, before)]
        unused = self._unused(in_use, before=before)
        for folder in [*drafts, *map(self._put_aside, unused)]:
            await asyncio.to_thread(_remove, folder)
        return tuple(directory.name.replace("-", ":", 1) for directory in unused)

    def _is_left(self, draft: Path, before: float) -> bool:
        return draft not in self._drafts and draft.stat().st_mtime <= before

    def _unused(self, in_use: Collection[str], *, before: float) -> list[Path]:
        busy = {digest for digest, lock in self._pulling.items() if lock.locked()}
        held = {digest for digest, times in self._held.items() if times}
        keep = {self._directory(digest).name for digest in {*in_use, *busy, *held}}
        mounted = MOUNTS.read_text()
        return [
            directory
            for directory in sorted(self._root.glob("sha256-*"))
            if directory.name not in keep
            # a mount may have it as its lower layer
            and directory.name not in mounted
            and directory.stat().st_mtime <= before
        ]

    def _put_aside(self, directory: Path) -> Path:
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=self._root))
        directory.rename(draft / directory.name)
        return draft

    def _directory(self, digest: str) -> Path:
        return self._root / digest.replace(":", "-")

    async def _resolve(self, wanted: Reference) -> str:
        """Look the digest of a tag up; return the last known one when the registry fails."""
        words = [*_skopeo(), "inspect", "--raw", *self._tls("--", wanted), wanted.tagged()]
        try:
            raw = await run(words, timeout_seconds=RESOLVE_TIMEOUT_SECONDS)
        except (CommandFailed, DeadlineExceeded) as e:
            if (known := self._remembered(wanted)) is None:
                raise _pull_failed(wanted.tagged(), e) from e
            logger.bind(image=wanted.tagged(), digest=known).warning(
                "registry failed: known digest"
            )
            return known
        return f"sha256:{hashlib.sha256(raw.stdout.encode()).hexdigest()}"

    async def _fetch(self, wanted: Reference, *, digest: str) -> Image:
        self._root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=self._root))
        # the users of a container have to pass through it
        draft.chmod(0o755)
        self._drafts.add(draft)
        try:
            await self._unpack(wanted.at(digest), tls=self._tls("--src-", wanted), draft=draft)
            draft.rename(self._directory(digest))
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, draft)
            raise
        finally:
            self._drafts.discard(draft)
        logger.bind(image=wanted.at(digest)).info("image pulled")
        image = self.find(digest)
        assert image is not None
        return image

    async def _unpack(self, source: str, *, tls: list[str], draft: Path) -> None:
        layout = draft / "layout"
        try:
            await run(
                [*_skopeo(), "copy", *tls, source, f"oci:{layout}:image"],
                timeout_seconds=PULL_TIMEOUT_SECONDS,
            )
            await run(
                ["umoci", "raw", "unpack", "--image", f"{layout}:image", draft / "rootfs"],
                timeout_seconds=PULL_TIMEOUT_SECONDS,
            )
            (draft / "config.json").write_bytes(image_format.read_config(layout))
        except (CommandFailed, DeadlineExceeded) as e:
            raise _pull_failed(source, e) from e
        except (ValidationError, OSError) as e:
            raise InvalidInput(
                f"reading the image {source}: {e}", reason=Reason.INVALID_IMAGE
            ) from e
        await asyncio.to_thread(shutil.rmtree, layout)
        # without it, a power cut after the rename would leave an image of empty files
        await run(["sync", "--file-system", draft])

    def _tls(self, prefix: str, wanted: Reference) -> list[str]:
        return [f"{prefix}tls-verify=false"] if wanted.registry in self._insecure else []

    def _note(self, wanted: Reference) -> Path:
        name = hashlib.sha256(wanted.tagged().encode()).hexdigest()
        return self._root / "references" / name

    def _remember(self, wanted: Reference, *, digest: str) -> None:
        note = self._note(wanted)
        note.parent.mkdir(exist_ok=True)
        note.write_text(digest)

    def _remembered(self, wanted: Reference) -> str | None:
        note = self._note(wanted)
        digest = note.read_text() if note.exists() else None
        return digest if digest is not None and self._directory(digest).exists() else None


def _remove(folder: Path) -> None:
    """Delete a draft; the next prune repeats what fails, since someone may still write there."""
    try:
        mounts.remove_tree(folder)
    except (TransshipError, OSError) as e:
        logger.bind(folder=str(folder), cause=str(e)).warning("a part of an image stays")


def _skopeo() -> list[str]:
    """Use the node's signature policy where there is one; without a policy skopeo fails."""
    return ["skopeo"] if POLICY.exists() else ["skopeo", "--insecure-policy"]


def _pull_failed(source: str, cause: Exception) -> TransshipError:
    return TransshipError(
        f"pulling {source.removeprefix('docker://')}: {cause}",
        reason=Reason.IMAGE_PULL_FAILED,
        hint=Reason.IMAGE_PULL_FAILED.hint,
    )
