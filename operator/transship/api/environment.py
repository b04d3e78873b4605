"""A container's environment: values, and where else they come from."""

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
    """One key of a ConfigMap or Secret of the placement's namespace."""

    name: ObjectName
    key: DataKey
    optional: bool = False
    """Start without the variable when the object or the key is missing."""


class FieldSelector(ApiModel):
    """A field of the placement itself, as it is when the container starts."""

    field_path: Annotated[
        str,
        Field(
            max_length=253,
            json_schema_extra=rules(
                rule(f"self in {list(FIELD_PATHS)}", f"must be one of {', '.join(FIELD_PATHS)}")
            ),
        ),
    ]
    """metadata.name, metadata.namespace, metadata.uid, spec.nodeName (the node at the start),
    status.podIP (the placement's address) or status.podIPs (all of them, with commas)."""


class EnvVarSource(ApiModel):
    """Where a variable's value comes from: exactly one of the three. It is taken as it is."""

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
    """A variable of the container's environment, fixed when it starts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!(has(self.value) && has(self.valueFrom))",
                "must have either value or valueFrom, not both",
            )
        )
    )

    name: EnvName
    value: Annotated[str, Field(max_length=131072)] | None = None  # MAX_ARG_STRLEN of the kernel
    """The value itself; as in a Pod $(NAME) stands for a variable before it in env, $$ for a $."""
    value_from: EnvVarSource | None = None
