"""Resolver: makes the order for an agent from a placement's spec, with all references resolved.

ConfigMaps and Secrets are read when the container is ordered. As in a Pod, a later change reaches
the environment only with the next start.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

from transship.agentapi.containers import ContainerOrder, ResolvedVolume, VolumeFile
from transship.api.container import Container, EnvVar, EnvVarSource, KeySelector, KeyToPath, Volume
from transship.api.environment import FIELD_PATHS
from transship.api.placement import ContainerPlacement, PlacementStatus
from transship.common.errors import InvalidInput, NotFound
from transship.controller.placement.orders import expand
from transship.controller.ports import ConfigData, DataKind

KNOWN_FIELDS = ", ".join(FIELD_PATHS)


class Resolver:
    """Makes the orders for agents."""

    def __init__(self, data: ConfigData) -> None:
        self._data = data

    async def order(
        self,
        placement: ContainerPlacement,
        status: PlacementStatus,
        *,
        node: str,
        epoch: int,
        image_digest: str | None = None,
    ) -> ContainerOrder:
        """The order for this node. Raises NotFound for a missing ConfigMap, Secret or key.

        image_digest: the image that runs on the source; its tag may have been moved since.
        """
        meta, spec = placement.metadata, placement.spec
        fields = _fields(placement, status, node=node)
        namespace = meta.namespace or ""
        env = await self._env(spec.container, namespace=namespace, fields=fields)
        volumes = [await self._volume(v, namespace=namespace) for v in spec.volumes]
        return ContainerOrder(
            id=meta.uid,
            namespace=namespace,
            name=meta.name,
            epoch=epoch,
            addresses=status.held_addresses,
            container=_expanded(spec.container, env),
            volumes=tuple(volumes),
            state=spec.state,
            image_digest=image_digest,
        )

    async def _env(
        self, container: Container, *, namespace: str, fields: Mapping[str, str]
    ) -> Mapping[str, str]:
        """The values of all variables. A value may refer to the variables before it."""
        values: dict[str, str] = {}
        for variable in container.env:
            if variable.value_from is None:
                values[variable.name] = expand(variable.value or "", values)
                continue
            value = await self._value(variable.value_from, namespace=namespace, fields=fields)
            if value is not None:
                values[variable.name] = value
        return values

    async def _value(
        self, source: EnvVarSource, *, namespace: str, fields: Mapping[str, str]
    ) -> str | None:
        if source.field_ref is not None:
            path = source.field_ref.field_path
            if path not in fields:
                raise InvalidInput(
                    f'fieldRef.fieldPath "{path}" is not known; there are: {KNOWN_FIELDS}'
                )
            return fields[path]
        if source.config_map_key_ref is not None:
            return await self._key(DataKind.CONFIG_MAP, source.config_map_key_ref, namespace)
        if source.secret_key_ref is not None:
            return await self._key(DataKind.SECRET, source.secret_key_ref, namespace)
        return None

    async def _key(self, kind: DataKind, wanted: KeySelector, namespace: str) -> str | None:
        try:
            data = await self._data.read(kind, namespace=namespace, name=wanted.name)
            content = _content(data, wanted.key, kind=kind, name=wanted.name)
        except NotFound:
            if wanted.optional:
                return None
            raise
        return content.decode(errors="replace")

    async def _volume(self, volume: Volume, *, namespace: str) -> ResolvedVolume:
        if (source := volume.config_map) is not None:
            kind, name, items = DataKind.CONFIG_MAP, source.name, source.items
        elif (secret := volume.secret) is not None:
            kind, name, items = DataKind.SECRET, secret.secret_name, secret.items
        else:
            return ResolvedVolume(volume=volume)
        data = await self._data.read(kind, namespace=namespace, name=name)
        return ResolvedVolume(volume=volume, files=_files(data, items, kind=kind, name=name))


def _fields(
    placement: ContainerPlacement, status: PlacementStatus, *, node: str
) -> Mapping[str, str]:
    meta = placement.metadata
    return {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace or "",
        "metadata.uid": meta.uid,
        "spec.nodeName": node,
        "status.podIP": status.address or "",
        "status.podIPs": ",".join(status.held_addresses),
    }


def _files(
    data: Mapping[str, bytes], items: tuple[KeyToPath, ...], *, kind: DataKind, name: str
) -> tuple[VolumeFile, ...]:
    wanted = items or tuple(KeyToPath(key=key, path=key) for key in sorted(data))
    return tuple(
        # the field decodes base64, as it comes over the wire
        VolumeFile(
            path=item.path, content=b64encode(_content(data, item.key, kind=kind, name=name))
        )
        for item in wanted
    )


def _content(data: Mapping[str, bytes], key: str, *, kind: DataKind, name: str) -> bytes:
    if key not in data:
        raise NotFound(
            f'{kind} {name} has no key "{key}"',
            reason=f"{kind}NotFound",
            hint=f"its keys are {', '.join(sorted(data)) or 'none'}",
        )
    return data[key]


def _expanded(container: Container, env: Mapping[str, str]) -> Container:
    return container.model_copy(
        update={
            "env": tuple(EnvVar(name=name, value=value) for name, value in env.items()),
            "command": tuple(expand(word, env) for word in container.command),
            "args": tuple(expand(word, env) for word in container.args),
        }
    )
