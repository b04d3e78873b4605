"""The one thing that is read of Kubernetes' Nodes."""

from __future__ import annotations

from transship.kube.nodes import has_taint

KEY = "node.kubernetes.io/out-of-service"


def test_a_taint_counts_whatever_its_value_and_effect() -> None:
    taint = {"key": KEY, "value": "nodeshutdown", "effect": "NoExecute"}
    other = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    assert has_taint({"spec": {"taints": [other, taint]}}, KEY)
    assert has_taint({"spec": {"taints": [{"key": KEY, "effect": "NoSchedule"}]}}, KEY)
    for without in ({}, {"spec": None}, {"spec": {"taints": None}}, {"spec": {"taints": [other]}}):
        assert not has_taint(without, KEY)
