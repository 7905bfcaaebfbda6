"""The rules in Python, held against the cases that the API server is held against (tests/integration/test_crds.py)."""

from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.api.common import RULE_BROKEN, Spec
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec
from integration.crd_objects import merged
from integration.crd_rule_case import RuleCase
from integration.crd_rules import RULE_CASES

MODELS: dict[str, type[Spec]] = {
    "InferenceService": InferenceServiceSpec,
    "PerformanceProfile": PerformanceProfileSpec,
    "ClusterPolicy": ClusterPolicySpec,
}


def check(kind: str, manifest: dict[str, Any]) -> None:
    model = MODELS[kind]
    for rule in model.root_rules:
        rule.check(manifest["metadata"]["name"])
    model.model_validate(manifest["spec"])


@pytest.mark.parametrize("case", RULE_CASES, ids=lambda case: f"{case.kind}-{case.message.split(':')[0]}")
def test_python_says_what_the_api_server_says(case: RuleCase) -> None:
    for patch in case.accepted:
        check(case.kind, merged(case.document, patch))
    for patch, words in case.rejected:
        with pytest.raises((ValidationError, PydanticCustomError)) as refused:
            check(case.kind, merged(case.document, patch))
        error = refused.value
        if isinstance(error, PydanticCustomError):
            assert words in error.message()
        else:
            broken = [one["msg"] for one in error.errors() if one["type"] == RULE_BROKEN]
            assert any(words in message for message in broken), error
