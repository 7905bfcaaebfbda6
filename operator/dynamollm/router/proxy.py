"""Passes a request to an instance and its answer back, byte for byte but for the priority that orders service.

Nothing is sent to the client before the instance's first body byte, so that until then another instance can be tried.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from dynamollm.adapters.clock import Clock
from dynamollm.core.selection import Candidate
from dynamollm.router.errors import RequestRefusedError
from dynamollm.router.exchange import Exchange
from dynamollm.router.fleet import Fleet
from dynamollm.router.metrics import Outcome

_LOG = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""Instances that a request is tried on, at most."""

CONNECT_TIMEOUT_S: Final = 2.0
"""Wall seconds to open a connection inside a cluster: longer means the pod is gone or its node is."""

STREAM_SILENCE_S: Final = 120.0
"""Simulated seconds that a stream may be silent: first tokens of a full instance come later than any SLO, but come."""

WHOLE_SILENCE_S: Final = 1200.0
"""The same for answers that come in one piece: thousands of tokens at a slow clock."""

_KEEPALIVE_S: Final = 2.0
"""Idle upstream connections are closed after this, well before the five seconds after which vLLM closes them."""

_HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "host", "content-length", "accept-encoding"),
    }
)

_UPSTREAM_ERRORS: Final = (aiohttp.ClientError, TimeoutError, OSError)


class _NotStartedError(Exception):
    """An instance gave no byte of an answer: another may be tried."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the proxy waits for an instance, wall seconds."""

    connect_s: float
    stream_silence_s: float
    whole_silence_s: float

    @classmethod
    def on(cls, clock: Clock) -> "Timeouts":
        """Return the usual ones; what engines compute shortens with the clock, what the network does cannot."""
        return cls(
            connect_s=CONNECT_TIMEOUT_S,
            stream_silence_s=clock.wall(STREAM_SILENCE_S),
            whole_silence_s=clock.wall(WHOLE_SILENCE_S),
        )


def client_session() -> aiohttp.ClientSession:
    """Return the session for all upstream requests; the caller closes it."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
    # Bytes are passed on as they are: nothing is decompressed, and engines are asked not to compress.
    return aiohttp.ClientSession(
        connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), raise_for_status=False
    )


class Proxy:
    """Finds instances for requests and carries the bytes.

    Args:
        fleet: where instances come from.
        session: from :func:`client_session`.
        timeouts: for instances.
    """

    def __init__(self, *, fleet: Fleet, session: aiohttp.ClientSession, timeouts: Timeouts) -> None:
        self._fleet = fleet
        self._session = session
        self._timeouts = timeouts

    async def forward(self, request: web.Request, body: bytes, exchange: Exchange) -> web.StreamResponse:
        """Return the answer of an instance, already sent.

        Raises:
            RequestRefusedError: 503, when there is no room, or when every attempt failed before the first byte.
        """
        avoid: set[str] = set()
        pool = ""
        for _ in range(ATTEMPTS):
            try:
                candidate = await self._fleet.acquire(exchange.predicted, avoid=avoid, deadline_ms=exchange.deadline_ms)
            except RequestRefusedError:
                exchange.failed(Outcome.REJECTED, pool=pool)
                raise
            except asyncio.CancelledError:
                exchange.failed(Outcome.ABORTED, pool=pool, blame_client=True)
                raise
            pool = candidate.pool
            try:
                return await self._attempt(request, body, exchange, candidate)
            except _NotStartedError as error:
                _LOG.warning("instance %s gave no answer, trying another: %s", candidate.name, error)
                avoid.add(candidate.name)
                self._fleet.suspect(candidate)
            except asyncio.CancelledError:
                exchange.failed(Outcome.ABORTED, pool=pool, blame_client=True)
                raise
            finally:
                self._fleet.release(candidate)
        exchange.failed(Outcome.ERROR, pool=pool)
        raise RequestRefusedError(503, f"{ATTEMPTS} attempts failed before the first byte: try again later")

    async def _attempt(
        self, request: web.Request, body: bytes, exchange: Exchange, candidate: Candidate
    ) -> web.StreamResponse:
        stream = exchange.request.stream
        timeout = aiohttp.ClientTimeout(
            sock_connect=self._timeouts.connect_s,
            sock_read=self._timeouts.stream_silence_s if stream else self._timeouts.whole_silence_s,
        )
        url = f"http://{candidate.address}{request.rel_url.raw_path_qs}"
        headers = _passed_on(request.headers)
        headers["Accept-Encoding"] = "identity"
        data = exchange.body_for(candidate, body)
        try:
            upstream = await self._session.post(url, data=data, headers=headers, timeout=timeout, allow_redirects=False)
        except _UPSTREAM_ERRORS as error:
            raise _NotStartedError(repr(error)) from None
        try:
            if upstream.status == 503:  # noqa: PLR2004 - HTTP: it is starting or shutting down
                raise _NotStartedError("it answered 503")
            try:
                first = await upstream.content.readany()
            except _UPSTREAM_ERRORS as error:
                raise _NotStartedError(repr(error)) from None
            return await _relay(request, upstream, first, exchange, pool=candidate.pool)
        finally:
            # Closes the connection of an answer that was not read to its end, which is how an engine learns of it.
            upstream.release() if upstream.content.at_eof() else upstream.close()


async def _relay(
    request: web.Request, upstream: aiohttp.ClientResponse, first: bytes, exchange: Exchange, *, pool: str
) -> web.StreamResponse:
    good = upstream.status == 200  # noqa: PLR2004 - HTTP OK
    response = web.StreamResponse(status=upstream.status, headers=_passed_on(upstream.headers))
    if upstream.content_length is not None:
        response.content_length = upstream.content_length
    chunk = first
    try:
        await response.prepare(request)
        while chunk:
            if good:
                exchange.feed(chunk)
            await response.write(chunk)
            try:
                chunk = await upstream.content.readany()
            except _UPSTREAM_ERRORS as error:
                _LOG.warning("a stream from %s broke: %r", upstream.url.host, error)
                exchange.failed(Outcome.ERROR, pool=pool)
                return _broken(request, response)
        _count_end(upstream.status, exchange, pool=pool)
        await response.write_eof()
    except ConnectionError:
        # Only writes get here: the client is gone.
        exchange.failed(Outcome.ABORTED, pool=pool, blame_client=True)
    return response


def _count_end(status: int, exchange: Exchange, *, pool: str) -> None:
    if status == 200 and exchange.complete:  # noqa: PLR2004 - HTTP OK
        exchange.served(pool=pool)
    elif 400 <= status < 500:  # noqa: PLR2004 - HTTP client errors
        exchange.failed(Outcome.REJECTED, pool=pool, blame_client=True)
    else:
        exchange.failed(Outcome.ERROR, pool=pool)


def _broken(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    # The end of a chunked answer would tell the client that it is whole: cut the connection instead.
    if request.transport is not None:
        request.transport.abort()
    return response


def _passed_on(headers: CIMultiDictProxy[str] | CIMultiDict[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)
