"""Replays a trace as real HTTP streams, open loop, and writes one JSON line per finished request.

A process of its own, so that drawing the screen never delays a request or its timestamps:
``python -m lab.demo.replay --url http://IP:PORT --model NAME --scale 8 [--trace FILE] > results.jsonl``.
Latencies are simulated milliseconds, as the client saw them: from sending the request to its first body byte (TTFT),
and from the first token to the last by the number of gaps (mean TBT). What the engine simulated is told in a comment before
the stream's end; all beyond it (connections, the router, this machine's scheduling) is real work, which takes the time
it takes however fast simulated time runs, and counts once. ``stretched_*`` are the same with that work multiplied by
the scale too.
"""

import argparse
import asyncio
import math
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import aiohttp
import orjson
import uvloop

from dynamollm.core.errors import DynamoLLMError, InvalidInputError
from dynamollm.simulator.traces import TraceRequest, generate_conversation_hour, read_azure_csv

WORD: Final = "word"
"""Four bytes: one token by the router's and the simulated engine's estimate for text."""

_COMMENT: Final = re.compile(rb": simulated first_ms=([0-9.]+) last_ms=([0-9.]+)\n\n")
_COMMENT_BYTES: Final = 120

TIMEOUT_S: Final = 600.0
"""A stream that takes longer than this, in simulated seconds, has failed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and how fast time runs."""

    url: str
    model: str
    scale: float


def load_trace(path: Path | None, *, start_s: float, duration_s: float, rate: float, seed: int) -> list[TraceRequest]:
    """Return the part [start, start + duration) of a trace, its arrivals ``rate`` times as frequent.

    ``rate`` repeats or thins requests at random (seeded), which keeps the trace's shape over time.
    """
    requests = read_azure_csv(path) if path else generate_conversation_hour(seed=seed)
    window = [
        TraceRequest(request.offset_s - start_s, request.input_tokens, request.output_tokens)
        for request in requests
        if start_s <= request.offset_s < start_s + duration_s
    ]
    return _scaled(window, rate)


def _scaled(requests: list[TraceRequest], rate: float) -> list[TraceRequest]:
    # A golden-ratio sequence spreads the rounding evenly and needs no random state.
    scaled = []
    for index, request in enumerate(requests):
        copies = math.floor(rate + (index * 0.6180339887498949) % 1.0)
        # Copies come shortly after each other, within the mean gap of the trace's own arrivals.
        scaled += [
            TraceRequest(request.offset_s + 0.18 * copy / copies, request.input_tokens, request.output_tokens)
            for copy in range(copies)
        ]
    return sorted(scaled, key=lambda request: request.offset_s)


async def replay(requests: list[TraceRequest], target: Target, out: BinaryIO) -> None:
    """Send every request at its time and write its result when it ends."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S / target.scale)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session, asyncio.TaskGroup() as tasks:
        start = time.perf_counter()
        for request in requests:
            due = start + request.offset_s / target.scale
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            lag_ms = (time.perf_counter() - due) * 1e3 * target.scale
            tasks.create_task(_one(session, target, request, lag_ms=lag_ms, out=out))


async def _one(
    session: aiohttp.ClientSession, target: Target, request: TraceRequest, *, lag_ms: float, out: BinaryIO
) -> None:
    result: dict[str, object] = {
        "offset_s": request.offset_s,
        "input_tokens": request.input_tokens,
        "output_tokens": request.output_tokens,
        "ok": False,
        "lag_ms": lag_ms,
    }
    try:
        result |= await _stream(session, target, request)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        result["error"] = f"{type(error).__name__}: {error}"
    out.write(orjson.dumps(result) + b"\n")
    out.flush()


async def _stream(session: aiohttp.ClientSession, target: Target, request: TraceRequest) -> dict[str, object]:
    body = {
        "model": target.model,
        "prompt": WORD * request.input_tokens,
        "max_tokens": 4096,
        "stream": True,
    }
    # The true length travels beside the body: a real client does not know it, so the router must predict it.
    headers = {"X-Simulated-Output-Tokens": str(request.output_tokens), "X-Simulated-Timing": "1"}
    sent = time.perf_counter()
    first = last = 0.0
    tokens = 0
    tail = end = b""
    async with session.post(f"{target.url}/v1/completions", json=body, headers=headers) as response:
        if response.status != 200:  # noqa: PLR2004 - HTTP OK
            return {"status": response.status, "error": (await response.text())[:200]}
        async for chunk in response.content.iter_any():
            last = time.perf_counter()
            first = first or last
            # An event can be cut by a chunk's end: the marker's first six bytes are looked at again with the next chunk.
            data = tail + chunk
            tokens += data.count(b"data: {")
            tail = data[-6:]
            end = (end + chunk)[-_COMMENT_BYTES:]
        status = response.status
    complete = tokens == request.output_tokens
    times = _latencies(sent, first, last, gaps=tokens - 1, scale=target.scale, end=end)
    return {
        "status": status,
        "ok": complete,
        **({} if complete else {"error": f"{tokens} of {request.output_tokens} tokens arrived"}),
        **times,
    }


def _latencies(sent: float, first: float, last: float, *, gaps: int, scale: float, end: bytes) -> dict[str, float]:
    """Return TTFT and mean TBT in simulated ms, from wall seconds and what the engine tells of its own time."""
    to_first_ms, to_last_ms = (first - sent) * 1e3, (last - sent) * 1e3
    per_gap = 1 / gaps if gaps > 0 else 0.0
    stretched = (to_first_ms * scale, (to_last_ms - to_first_ms) * scale * per_gap)
    own = stretched
    if told := _COMMENT.search(end):
        first_ms, last_ms = float(told[1]), float(told[2])
        # Never below what was simulated: a token is written when its time has come, or later.
        waited_ms = max(0.0, to_first_ms - first_ms / scale)
        late_ms = max(0.0, to_last_ms - last_ms / scale)
        own = (first_ms + waited_ms, max(0.0, last_ms + late_ms - first_ms - waited_ms) * per_gap)
    return {"ttft_ms": own[0], "tbt_ms": own[1], "stretched_ttft_ms": stretched[0], "stretched_tbt_ms": stretched[1]}


def add_trace_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which requests there are."""
    parser.add_argument("--trace", type=Path, help="an Azure LLM inference CSV; none: a generated hour")
    parser.add_argument("--start", type=float, default=0.0, help="seconds into the trace")
    parser.add_argument("--duration", type=float, default=math.inf, help="seconds of the trace")
    parser.add_argument("--rate", type=float, default=1.0, help="requests per request of the trace")
    parser.add_argument("--seed", type=int, default=2023, help="of the generated hour")


def requests_of(arguments: argparse.Namespace) -> list[TraceRequest]:
    """Return the requests that these options name.

    Raises:
        InvalidInputError: the trace cannot be read, or has no request in that part.
    """
    requests = load_trace(
        arguments.trace,
        start_s=arguments.start,
        duration_s=arguments.duration,
        rate=arguments.rate,
        seed=arguments.seed,
    )
    if not requests:
        raise InvalidInputError(
            f"no requests from second {arguments.start:g} for {arguments.duration:g} s: START and DURATION lie outside the trace"
        )
    return requests


def main() -> None:
    """Run the replay that the command line asks for."""
    parser = argparse.ArgumentParser(prog="lab.demo.replay", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="simulated seconds per wall second")
    add_trace_options(parser)
    arguments = parser.parse_args()
    try:
        requests = requests_of(arguments)
    except DynamoLLMError as error:
        sys.exit(f"replay: {error}")
    target = Target(arguments.url, arguments.model, arguments.scale)
    uvloop.run(replay(requests, target, sys.stdout.buffer))


if __name__ == "__main__":
    main()
