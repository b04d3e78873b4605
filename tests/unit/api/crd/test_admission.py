"""What a placement may not do unless its namespace allows it; no field is forgotten."""

from __future__ import annotations

from pydantic import BaseModel

from transship.api.container import DEFAULT_CAPABILITIES, Capabilities, Container, SecurityContext
from transship.api.crd import admission
from transship.api.environment import EnvVarSource
from transship.api.placement import Network, NetworkMode, PlacementSpec
from transship.api.volume import Volume


def names(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_what_is_refused_is_what_reaches_beyond_the_container() -> None:
    """A new field of these models is refused until it is said to be harmless; decide which."""
    assert admission.refused_fields() == ("spec.volumes[].hostPath", "spec.volumes[].nfs")


def test_harmless_fields_exist() -> None:
    assert names(PlacementSpec) >= admission.HARMLESS_SPEC
    assert names(Container) >= admission.HARMLESS_CONTAINER
    assert names(SecurityContext) >= admission.HARMLESS_SECURITY_CONTEXT
    assert names(Volume) >= admission.HARMLESS_VOLUMES


def test_what_the_policy_does_not_look_into_has_been_looked_at() -> None:
    """Nothing of these reaches beyond the container; see to that before you add to them."""
    assert names(Network) == {"mode", "addressPool", "address", "addresses", "ipFamilies"}
    assert {*NetworkMode} == {NetworkMode.POOL, NetworkMode.NONE}
    assert names(EnvVarSource) == {"configMapKeyRef", "secretKeyRef", "fieldRef"}
    assert names(Capabilities) == {"add", "drop"}


def test_the_policy_holds_on_create_and_update_and_fails_closed() -> None:
    policy, binding = admission.policy()
    [rule] = policy["spec"]["matchConstraints"]["resourceRules"]
    assert rule["operations"] == ["CREATE", "UPDATE"]
    assert rule["resources"] == ["containerplacements"]
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert binding["spec"] == {
        "policyName": policy["metadata"]["name"], "validationActions": ["Deny"],
    }  # fmt: skip


def test_every_rule_can_be_allowed_by_the_label_and_tells_how() -> None:
    policy, _ = admission.policy()
    rules = policy["spec"]["validations"]
    assert len(rules) == len(admission.refused_fields()) + 1
    for rule in rules:
        assert rule["expression"].startswith("variables.allowed || ")
        assert "pod-security.kubernetes.io/enforce=privileged" in rule["messageExpression"]


def test_the_default_capabilities_are_the_runtimes() -> None:
    policy, _ = admission.policy()
    [added] = [v for v in policy["spec"]["variables"] if v["name"] == "added"]
    assert str(list(DEFAULT_CAPABILITIES)) in added["expression"]
