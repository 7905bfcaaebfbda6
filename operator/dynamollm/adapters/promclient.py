"""Queries to Prometheus with every way they fail made one: ``PrometheusError`` with a stable reason.

prometheus-api-client is synchronous, waits for ever by default, gives values as strings and a plain KeyError for an
answer that is not Prometheus' at all; what is done about each is here. Times are wall seconds.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from dynamollm.core.errors import UnknownDataError

_STATUS: Final = re.compile(r"HTTP Status Code (\d{3})")
_REFUSED: Final = ("401", "403")


class PrometheusError(UnknownDataError):
    """Prometheus gave no trustworthy answer.

    Args:
        reason: stable CamelCase word, as conditions and metrics show it.
        message: one sentence, what to do included.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sample:
    """The newest value of one series."""

    labels: Mapping[str, str]
    value: float
    """Finite."""
    time_s: float


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one series over time, oldest first; NaN and infinities are left out."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    """(unix seconds, value)."""


class PrometheusClient:
    """One Prometheus server.

    Args:
        url: of its API, without /api/v1.
        timeout_s: for connecting, and again for each wait for bytes.
    """

    def __init__(self, *, url: str, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        # Not retried: the next cycle asks again anyway, and an answer that comes late is worth nothing. `read=False` keeps
        # a timeout a timeout; a retry that is exhausted would make it a refused connection.
        self._connect = PrometheusConnect(url=self.url, retry=Retry(total=0, read=False))

    def close(self) -> None:
        """Give the connections back."""
        self._connect.close()

    def vector(self, expression: str) -> list[Sample]:
        """Return the result of an instant query; NaN is left out.

        Raises:
            PrometheusError: no trustworthy answer.
        """
        return [
            Sample(labels=series.labels, value=value, time_s=time_s)
            for series in self._ask(expression, None)
            for time_s, value in series.points
        ]

    def latest(self, selector: str, *, within_s: float) -> list[Sample]:
        """Return the newest sample of each series that was scraped within these seconds, with the time of the scrape.

        A range selector rather than an instant query, which shows samples of up to five minutes ago as if of now.

        Raises:
            PrometheusError: no trustworthy answer.
        """
        return [
            Sample(labels=series.labels, value=series.points[-1][1], time_s=series.points[-1][0])
            for series in self._ask(f"{selector}[{milliseconds(within_s)}]", None)
            if series.points
        ]

    def matrix(self, expression: str, *, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """Return the result of a range query.

        Raises:
            PrometheusError: no trustworthy answer.
        """
        # The client rounds its own start and end to whole seconds, which moves a fine grid: these override them.
        params = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:.3f}"}
        return self._ask(expression, params)

    def _ask(self, expression: str, span: dict[str, str] | None) -> list[Series]:
        try:
            if span is None:
                result = self._connect.custom_query(expression, timeout=self._timeout_s)
            else:
                now = datetime.now(UTC)
                result = self._connect.custom_query_range(
                    expression, now, now, span["step"], params=span, timeout=self._timeout_s
                )
            return [_series(entry) for entry in result]
        except requests.Timeout as error:
            raise PrometheusError(
                "PrometheusTimeout", f"{self.url} gave no answer within {self._timeout_s:g} s: is it overloaded?"
            ) from error
        except PrometheusApiClientException as error:
            raise self._refusal(str(error)) from error
        # A body that is not JSON is a RequestException too, and a ValueError: it did answer.
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PrometheusError(
                "PrometheusBadAnswer", f"{self.url} answered something that is not Prometheus': check PROMETHEUS_URL"
            ) from error
        except requests.RequestException as error:
            raise PrometheusError(
                "PrometheusUnreachable", f"{self.url} cannot be reached: is it up, and is PROMETHEUS_URL right?"
            ) from error

    def _refusal(self, text: str) -> PrometheusError:
        match = _STATUS.search(text)
        status = match[1] if match else "an error"
        if status in _REFUSED:
            return PrometheusError(
                "PrometheusUnauthorized", f"{self.url} answered {status}: give PROMETHEUS_URL one that needs no login"
            )
        return PrometheusError("PrometheusError", f"{self.url} answered {status}: see its log")


def milliseconds(seconds: float) -> str:
    """Return a PromQL duration."""
    return f"{max(1, round(seconds * 1000))}ms"


def matcher(labels: Mapping[str, str]) -> str:
    """Return a PromQL label matcher, values escaped."""
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in labels.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _series(entry: dict[str, Any]) -> Series:
    # A KeyError, TypeError or ValueError from here says that this is no answer of Prometheus.
    values = [entry["value"]] if "value" in entry else entry["values"]
    points = [(float(time_s), float(value)) for time_s, value in values]
    return Series(
        labels=dict(entry["metric"]), points=tuple((time_s, value) for time_s, value in points if math.isfinite(value))
    )
