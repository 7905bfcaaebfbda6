"""The latency SLO of an InferenceService, and where its request classes part."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dynamollm.api.common import RequestClassName, Rule, Spec, list_map

Milliseconds = Annotated[int, Field(ge=1, le=600_000)]


class TtftSlo(Spec):
    """Time to first token by input length."""

    short: Milliseconds
    """Short inputs, ms."""
    medium: Milliseconds
    """Medium inputs, ms."""
    long: Milliseconds
    """Long inputs, ms."""


class SloOverride(Spec):
    """Another SLO for one request class."""

    request_class: RequestClassName = Field(alias="class")
    """The class, input length first: SS, SM, SL, MS, MM, ML, LS, LM or LL."""
    ttft_milliseconds: Milliseconds | None = None
    """Time to first token, ms; absent: by input length."""
    tbt_milliseconds: Milliseconds | None = None
    """Mean time between tokens, ms; absent: as for all."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="has(self.ttftMilliseconds) || has(self.tbtMilliseconds)",
            message="slo.overrides has an entry that overrides nothing: set ttftMilliseconds or tbtMilliseconds",
            detail="slo.overrides %s overrides nothing: set ttftMilliseconds or tbtMilliseconds, or remove it",
            values=("self.class",),
            holds=lambda self: self.ttft_milliseconds is not None or self.tbt_milliseconds is not None,
            found=lambda self: (self.request_class,),
        ),
    )


class SloSpec(Spec):
    """The SLO: what latency each request class is promised, and by which rule it is judged."""

    rule: Literal["PerRequest", "PerClassPercentile", "FiveTimesAlone"] = "PerRequest"
    """PerRequest: percentile % of all requests meet both their own TTFT and their own mean TBT. PerClassPercentile: in every class the percentile of TTFT, and of TBT over all gaps between tokens, is within the limits. FiveTimesAlone: percentile % of all requests take at most five times as long, end to end, as the same request alone at the largest TP degree and the highest clock; TTFT and TBT limits are then only what deadlines and reports go by."""
    percentile: Annotated[int, Field(ge=50, le=99)] = 99
    """Share of requests, or percentile of latencies, that the rule asks for, %."""
    ttft_milliseconds: TtftSlo
    """Time to first token."""
    tbt_milliseconds: Milliseconds
    """Mean time between tokens of a request, ms."""
    overrides: Annotated[tuple[SloOverride, ...], Field(max_length=9, json_schema_extra=list_map("class"))] = ()
    """Other SLOs for single classes."""


class InputBoundaries(Spec):
    """Boundaries of the input length, tokens."""

    short: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Shorter inputs are short, tokens."""
    medium: Annotated[int, Field(ge=2, le=10_000_000)] = 1024
    """Inputs from short to below this are medium, all others long, tokens."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.short < self.medium",
            message="classes.inputTokens.short must be below classes.inputTokens.medium",
            detail="classes.inputTokens.short %d must be below classes.inputTokens.medium %d",
            values=(
                "self.short",
                "self.medium",
            ),
            field_path=".short",
            holds=lambda self: self.short < self.medium,
            found=lambda self: (
                self.short,
                self.medium,
            ),
        ),
    )


class OutputBoundaries(Spec):
    """Boundaries of the output length, tokens."""

    short: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Shorter outputs are short, tokens."""
    medium: Annotated[int, Field(ge=2, le=10_000_000)] = 350
    """Outputs from short to below this are medium, all others long, tokens."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.short < self.medium",
            message="classes.outputTokens.short must be below classes.outputTokens.medium",
            detail="classes.outputTokens.short %d must be below classes.outputTokens.medium %d",
            values=(
                "self.short",
                "self.medium",
            ),
            field_path=".short",
            holds=lambda self: self.short < self.medium,
            found=lambda self: (
                self.short,
                self.medium,
            ),
        ),
    )


class ClassesSpec(Spec):
    """Where the nine request classes part; the defaults are the paper's."""

    input_tokens: InputBoundaries = InputBoundaries()
    """By input length."""
    output_tokens: OutputBoundaries = OutputBoundaries()
    """By output length."""
