"""The routing that the operator publishes: which pool serves which class, where classes part, and the SLO of each."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dynamollm.api.names import ROUTING_KEY
from dynamollm.core.classes import ClassBoundaries, RequestClass
from dynamollm.core.errors import InvalidInputError


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Slos(_Value):
    """The latency each class is promised, in simulated milliseconds."""

    ttft_ms: dict[RequestClass, Annotated[float, Field(gt=0)]]
    tbt_ms: dict[RequestClass, Annotated[float, Field(gt=0)]]

    def met(self, request_class: RequestClass, *, ttft_ms: float, tbt_ms: float) -> bool:
        """Return whether a request of the class is within both."""
        return ttft_ms <= self.ttft_ms[request_class] and tbt_ms <= self.tbt_ms[request_class]


class Routing(_Value):
    """One version of the operator's ``routing.json``."""

    service: str
    namespace: str
    model: str
    classes: dict[RequestClass, str]
    boundaries: ClassBoundaries
    slo: Slos
    full_in_flight: dict[str, dict[int, Annotated[float, Field(gt=0)]]] = {}
    """Pool → TP → requests inside an instance that carries all it can within the SLO; absent: not known."""

    @model_validator(mode="after")
    def _complete(self) -> "Routing":
        for name, table in (("classes", self.classes), ("ttft_ms", self.slo.ttft_ms), ("tbt_ms", self.slo.tbt_ms)):
            if missing := [request_class for request_class in RequestClass if request_class not in table]:
                raise ValueError(f"{name} lacks {', '.join(missing)}: give all nine classes")
        return self


def routing_from_config_map(config_map: Mapping[str, Any]) -> Routing:
    """Return the routing in a ConfigMap object.

    Raises:
        InvalidInputError: it is missing or not complete.
    """
    name = config_map["metadata"]["name"]
    text = (config_map.get("data") or {}).get(ROUTING_KEY)
    if text is None:
        raise InvalidInputError(
            f"ConfigMap {name} has no {ROUTING_KEY}: the operator writes it; is another writer at work?"
        )
    try:
        return Routing.model_validate_json(text)
    except ValidationError as error:
        raise InvalidInputError(f"ConfigMap {name}, {ROUTING_KEY}: {error}") from None
