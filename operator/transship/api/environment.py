"""The environment variables of a container, and the sources of their values."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from transship.api.base import ApiModel, ObjectName, rule, rules
from transship.api.volume import DataKey

EnvName = Annotated[str, Field(max_length=256, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")]

FIELD_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "status.podIP",
    "status.podIPs",
)


class KeySelector(ApiModel):
    """One key of a ConfigMap or Secret in the placement's namespace."""

    name: ObjectName
    key: DataKey
    optional: bool = False
    """If the object or the key is missing, start the container without the variable."""


class FieldSelector(ApiModel):
    """A field of the placement. The value is read when the container starts."""

    field_path: Annotated[
        str,
        Field(
            max_length=253,
            json_schema_extra=rules(
                rule(f"self in {list(FIELD_PATHS)}", f"must be one of {', '.join(FIELD_PATHS)}")
            ),
        ),
    ]
    """metadata.name, metadata.namespace, metadata.uid, spec.nodeName (the node on which the
    container starts), status.podIP (the placement's address) or status.podIPs (all its addresses,
    separated by commas)."""


class EnvVarSource(ApiModel):
    """The source of a variable's value: exactly one of the three. $(NAME) is not expanded in it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.configMapKeyRef), has(self.secretKeyRef), has(self.fieldRef)]"
                ".exists_one(one, one)",
                "must have exactly one of configMapKeyRef, secretKeyRef and fieldRef",
            )
        )
    )

    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None
    field_ref: FieldSelector | None = None


class EnvVar(ApiModel):
    """A variable of the container's environment. Its value is fixed when the container starts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!(has(self.value) && has(self.valueFrom))",
                "must have either value or valueFrom, not both",
            )
        )
    )

    name: EnvName
    # the kernel's MAX_ARG_STRLEN
    value: Annotated[str, Field(max_length=131072)] | None = None
    """The value. As in a Pod, $(NAME) stands for a variable that precedes this one in env, and $$
    for a single $."""
    value_from: EnvVarSource | None = None
