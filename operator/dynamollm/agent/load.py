"""What an engine has to do right now: its own metrics, read every cycle, as tokens per second and a queue."""

import math
import re
from typing import Final

import aiohttp

from dynamollm.api import names
from dynamollm.core.errors import UnknownDataError
from dynamollm.core.loadmeter import EngineSample

_TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)
"""Wall seconds. An engine that takes longer is in trouble: safe clocks."""

_WAITING, _RUNNING, _PROMPT, _GENERATION = _WHAT = ("waiting", "running", "prompt tokens", "generated tokens")
_NAMES: Final = {
    # vLLM, and the simulated engine.
    "vllm:num_requests_waiting": _WAITING,
    "vllm:num_requests_running": _RUNNING,
    "vllm:prompt_tokens_total": _PROMPT,
    "vllm:generation_tokens_total": _GENERATION,
    # SGLang, with --enable-metrics.
    "sglang:num_queue_reqs": _WAITING,
    "sglang:num_running_reqs": _RUNNING,
    "sglang:prompt_tokens_total": _PROMPT,
    "sglang:generation_tokens_total": _GENERATION,
    # TensorRT-LLM, with return_perf_metrics and enable_iter_perf_stats.
    "trtllm_num_requests_waiting": _WAITING,
    "trtllm_num_requests_running": _RUNNING,
    "trtllm_prompt_tokens_total": _PROMPT,
    "trtllm_generation_tokens_total": _GENERATION,
}
_SAMPLE: Final = re.compile(rf"^({'|'.join(_NAMES)})(?:\{{.*\}})? +(\S+)(?: +\d+)?$", re.MULTILINE)


def parse_engine_metrics(text: str) -> EngineSample:
    """Return what a clock decision needs from an engine's /metrics.

    Raises:
        UnknownDataError: a needed series is missing, or is not a finite number.
    """
    sums: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        try:
            sums[_NAMES[name]] = sums.get(_NAMES[name], 0.0) + float(value)
        except ValueError:
            raise UnknownDataError(f"{name} of an engine is {value!r}, not a number") from None
    for what in _WHAT:
        if not math.isfinite(sums.get(what, math.nan)):
            raise UnknownDataError(f"{what}: missing from an engine's metrics, or not finite")
    return EngineSample(
        tokens=sums[_PROMPT] + sums[_GENERATION],
        waiting=int(sums[_WAITING]),
        running=int(sums[_RUNNING]),
    )


class EngineMetrics:
    """Reads the metrics of local engines."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def read(self, ip: str, metrics_path: str) -> EngineSample:
        """Return what the engine on this pod address says.

        Raises:
            UnknownDataError: it does not answer in time, or not with the series that are needed.
        """
        host = f"[{ip}]" if ":" in ip else ip
        url = f"http://{host}:{names.ENGINE_PORT}{metrics_path}"
        try:
            async with self._session.get(url, timeout=_TIMEOUT) as response:
                response.raise_for_status()
                text = (await response.read()).decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnknownDataError(f"{url} did not answer: {error!r}") from error
        return parse_engine_metrics(text)
