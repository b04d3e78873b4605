"""The ValidatingAdmissionPolicy that refuses placements with access beyond their container.

Anyone who may write such a placement can become root on its node. The policy is generated from the
models and refuses by default: a volume source that is not in HARMLESS_VOLUMES, a field that is not
in HARMLESS_SPEC, HARMLESS_CONTAINER or HARMLESS_SECURITY_CONTEXT, and a capability that is not in
the default set. A namespace is exempt if it has the label with which Pod Security admission allows
the same for Pods.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from transship.api import GROUP
from transship.api.container import DEFAULT_CAPABILITIES, Container, SecurityContext, Volume
from transship.api.kinds import PLACEMENTS
from transship.api.placement import PlacementSpec

NAME = "transship-placement-privileges"
LABEL = "pod-security.kubernetes.io/enforce"
PRIVILEGED = "privileged"

HARMLESS_SPEC = frozenset(
    {"targetNode", "nodeSelector", "container", "volumes", "network", "migration", "state"}
)
HARMLESS_CONTAINER = frozenset(
    {
        "image",
        "command",
        "args",
        "env",
        "workingDir",
        "hostname",
        "stdin",
        "tty",
        "stopSignal",
        "ports",
        "resources",
        "securityContext",
        "volumeMounts",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "restartPolicy",
        "terminationGracePeriodSeconds",
    }
)
HARMLESS_SECURITY_CONTEXT = frozenset(
    {"runAsUser", "runAsGroup", "readOnlyRootFilesystem", "capabilities"}
)
HARMLESS_VOLUMES = frozenset({"name", "emptyDir", "configMap", "secret"})
VALUES = {"hostPath": "v.hostPath.path", "nfs": "v.nfs.server + ':' + v.nfs.path"}
"""CEL expressions that describe a volume v in a message. Other kinds are described by name only."""
DANGERS = {
    "hostPath": "it is a directory of the node",
    "nfs": "the node mounts it with its own identity",
}
"""Why a field is refused. For other fields the message is that they reach beyond the container."""
REMEDY = (
    "or a cluster administrator allows it: kubectl label namespace ' + "
    f"namespaceObject.metadata.name + ' {LABEL}={PRIVILEGED}'"
)

Document = dict[str, Any]


def policy() -> tuple[Document, Document]:
    """The policy and its binding."""
    return _policy(), {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": NAME},
        "spec": {"policyName": NAME, "validationActions": ["Deny"]},
    }


def refused_fields() -> tuple[str, ...]:
    """Return the paths of all fields of a placement that are refused."""
    return (
        *(f"spec.{name}" for name in _others(PlacementSpec, HARMLESS_SPEC)),
        *(f"spec.volumes[].{name}" for name in _others(Volume, HARMLESS_VOLUMES)),
        *(f"spec.container.{name}" for name in _others(Container, HARMLESS_CONTAINER)),
        *(
            f"spec.container.securityContext.{name}"
            for name in _others(SecurityContext, HARMLESS_SECURITY_CONTEXT)
        ),
    )


def _policy() -> Document:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": NAME},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [GROUP],
                        "apiVersions": ["*"],
                        "resources": [PLACEMENTS.plural],
                        "operations": ["CREATE", "UPDATE"],
                    }
                ]
            },
            # finalizers and labels of a placement that exists can always be changed
            "matchConditions": [
                {
                    "name": "spec-changes",
                    "expression": "request.operation == 'CREATE' || object.spec != oldObject.spec",
                }
            ],
            "variables": _variables(),
            "validations": [*_field_rules(), *_volume_rules(), _capability_rule()],
        },
    }


def _variables() -> list[Document]:
    label = f"namespaceObject.metadata.labels['{LABEL}']"
    context = "object.spec.container.securityContext"
    added = f"{context}.capabilities.add"
    has_added = f"has({context}) && has({context}.capabilities) && has({added})"
    defaults = ", ".join(f"'{name}'" for name in DEFAULT_CAPABILITIES)
    return [
        {
            "name": "allowed",
            "expression": "has(namespaceObject.metadata.labels) && "
            f"'{LABEL}' in namespaceObject.metadata.labels && {label} == '{PRIVILEGED}'",
        },
        {
            "name": "volumes",
            "expression": "has(object.spec.volumes) ? object.spec.volumes : []",
        },
        {
            "name": "added",
            "expression": f"{has_added} ? {added}.filter(name, !(name in [{defaults}])) : []",
        },
    ]


def _volume_rules() -> Iterable[Document]:
    for name in _others(Volume, HARMLESS_VOLUMES):
        value = f" + ' (' + {VALUES[name]} + ')'" if name in VALUES else ""
        volume = f"variables.volumes.filter(v, has(v.{name})).map(v, v.name{value})[0]"
        yield _rule(
            f"variables.volumes.all(v, !has(v.{name}))",
            f"'spec.volumes: {name} of ' + {volume} + ' is refused: {_danger(name)}; "
            f"use emptyDir, configMap or secret, {REMEDY}",
        )


def _field_rules() -> Iterable[Document]:
    container, context = "object.spec.container", "object.spec.container.securityContext"
    fields = [
        *(("object.spec", "", name) for name in _others(PlacementSpec, HARMLESS_SPEC)),
        *((container, "", name) for name in _others(Container, HARMLESS_CONTAINER)),
        *(
            (context, f"!has({context}) || ", name)
            for name in _others(SecurityContext, HARMLESS_SECURITY_CONTEXT)
        ),
    ]
    for parent, absent, name in fields:
        path = f"{parent}.{name}".removeprefix("object.")
        message = f"'{path} is refused: {_danger(name)}; leave it out, {REMEDY}"
        yield _rule(f"{absent}!has({parent}.{name})", message)


def _capability_rule() -> Document:
    return _rule(
        "size(variables.added) == 0",
        "'spec.container.securityContext.capabilities.add: ' + variables.added.join(', ') + "
        f"' is refused: it is more than a container has by default; leave it out, {REMEDY}",
    )


def _rule(expression: str, message: str) -> Document:
    return {
        "expression": f"variables.allowed || {expression}",
        "messageExpression": message,
        "reason": "Forbidden",
    }


def _danger(name: str) -> str:
    return DANGERS.get(name, "it reaches beyond the container")


def _others(model: type[BaseModel], harmless: frozenset[str]) -> list[str]:
    """Return the JSON names of a model's fields that are not listed as harmless."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    return [name for name in names if name not in harmless]
