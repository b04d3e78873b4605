"""The formats of images: references, and the files of an OCI image layout.

https://github.com/opencontainers/image-spec
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from transship.api.reasons import Reason
from transship.common.errors import InvalidInput

_PART = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::\d+)?/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_DEFAULT_REGISTRY = "docker.io"

# many builders write an empty list as `null`
_Words = Annotated[tuple[str, ...], BeforeValidator(lambda value: value or ())]


class ImageConfig(BaseModel):
    """The `config` of an image: how its builder wants it to run."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, frozen=True)

    entrypoint: _Words = ()
    cmd: _Words = ()
    env: _Words = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""


class _ConfigBlob(BaseModel):
    config: ImageConfig = ImageConfig()


class _Descriptor(BaseModel):
    digest: str


class _Manifest(BaseModel):
    config: _Descriptor


class _Index(BaseModel):
    manifests: tuple[_Descriptor, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Reference:
    """A parsed image reference, with its registry and tag filled in."""

    registry: str
    name: str
    tag: str
    digest: str | None

    def at(self, digest: str) -> str:
        return f"docker://{self.registry}/{self.name}@{digest}"

    def tagged(self) -> str:
        return f"docker://{self.registry}/{self.name}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """Parse a reference as Docker does. Raises InvalidInput."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"{text!r} is not an image reference",
            reason=Reason.INVALID_IMAGE,
            hint=Reason.INVALID_IMAGE.hint,
        )
    first, _, rest = match["name"].partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        registry, name = first, rest
    else:
        registry = _DEFAULT_REGISTRY
        name = match["name"] if rest else f"library/{first}"
    return Reference(registry, name, match["tag"] or "latest", match["digest"])


def parse_config(blob: bytes) -> ImageConfig:
    """Parse a configuration blob. Raises pydantic's ValidationError."""
    return _ConfigBlob.model_validate_json(blob).config


def read_config(layout: Path) -> bytes:
    """Return the configuration blob of an OCI layout with one image; it can be parsed.

    Raises ValidationError or OSError.
    """
    index = _Index.model_validate_json((layout / "index.json").read_bytes())
    manifest = _Manifest.model_validate_json(_blob(layout, index.manifests[0].digest))
    config = _blob(layout, manifest.config.digest)
    parse_config(config)
    return config


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/", 1)).read_bytes()
