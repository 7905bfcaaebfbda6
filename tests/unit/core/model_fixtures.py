"""The two shipped profiles and loads on them, for the tests of the performance model."""

from dataclasses import replace
from functools import cache

import yaml
from decision_world import constant

from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.priors import PRIOR_SHARE, typical_lengths
from dynamollm.core.profile import Profile
from dynamollm.core.records import ClassLoad, LoadHistory, Slo
from lab.paths import REPOSITORY

MODERN, PAPER = "h100-llama2-70b-vllm", "h100-llama2-70b-vllm2023"
TTFT_MS = {"S": 250.0, "M": 400.0, "L": 2000.0}
SLO = Slo(ttft_ms={c: TTFT_MS[c.value[0]] for c in RequestClass}, tbt_ms=dict.fromkeys(RequestClass, 100.0))


@cache
def spec(name: str) -> PerformanceProfileSpec:
    manifest = yaml.safe_load((REPOSITORY / f"manifests/profiles/{name}.yaml").read_text())
    return PerformanceProfileSpec.model_validate(manifest["spec"])


@cache
def profile(name: str) -> Profile:
    return Profile.from_spec(spec(name), name=name)


def mix(*classes: RequestClass, rate_per_s: float = 1.0) -> dict[RequestClass, ClassLoad]:
    lengths = typical_lengths(ClassBoundaries())
    share = rate_per_s / len(classes)
    return {c: ClassLoad(share, lengths[c].input_tokens, lengths[c].output_tokens) for c in classes}


def paper_mix(rate_per_s: float, *, end_s: float) -> LoadHistory:
    """The paper's class shares at typical lengths."""
    lengths = typical_lengths(ClassBoundaries())
    load = constant({c: rate_per_s * share for c, share in PRIOR_SHARE.items()}, end_s=end_s)
    return replace(
        load,
        input_tokens={c: part.input_tokens for c, part in lengths.items()},
        output_tokens={c: part.output_tokens for c, part in lengths.items()},
    )
