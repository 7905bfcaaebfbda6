"""The router's view of the cluster: a service's engine pods and its routing ConfigMap, by list and watch.

Plain aiohttp, since the router's process needs two small watches and no client library's start-up time and memory.
A watch that dies silently is found out: the server is asked to end each one after a short while, and one that outlives
that is cut and begun again. While the API is away the last known state stands.
"""

import asyncio
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from dynamollm.core.errors import InvalidInputError, UnknownDataError

_LOG = logging.getLogger(__name__)

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts a pod's token and the API's certificate authority."""

WATCH_S: Final = 20
"""The API server ends a watch after this; wall seconds, as everything here. Bounds how long a dead one goes unnoticed."""

_GRACE_S: Final = 5.0
"""A watch that lives this much longer is dead."""

_BACKOFF_S: Final = (0.2, 5.0)
"""First and longest wait after a failure; doubled each time, and spread by up to half."""

_GONE: Final = 410

Objects = Mapping[str, Mapping[str, Any]]
"""Kubernetes objects by name."""


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """How to reach the Kubernetes API."""

    url: str
    token_file: Path | None = None
    """Read anew for every request: the kubelet rotates it."""
    ca_file: Path | None = None

    @classmethod
    def in_cluster(cls, service_account: Path = SERVICE_ACCOUNT) -> "ApiAccess":
        """Return the access that every pod has.

        Raises:
            InvalidInputError: this process is not in a pod.
        """
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            message = "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: run this in a pod with a service account"
            raise InvalidInputError(message)
        literal = f"[{host}]" if ":" in host else host
        return cls(
            url=f"https://{literal}:{port}",
            token_file=service_account / "token",
            ca_file=service_account / "ca.crt",
        )

    def session(self) -> aiohttp.ClientSession:
        """Return a session for :class:`ObjectWatch`; the caller closes it."""
        tls = ssl.create_default_context(cafile=self.ca_file) if self.url.startswith("https:") else None
        connector = aiohttp.TCPConnector(ssl=tls) if tls else aiohttp.TCPConnector()
        return aiohttp.ClientSession(connector=connector)

    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate a request."""
        if self.token_file is None:
            return {}
        return {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}


class ObjectWatch:
    """Keeps the objects of one list up to date and tells each change.

    Args:
        api: how to reach the API.
        path: of the list, such as ``/api/v1/namespaces/llm/pods``.
        selector: query parameters that choose among them (labelSelector, fieldSelector).
        on_change: called with all objects after each change and after each list; must not block.
    """

    def __init__(
        self, api: ApiAccess, *, path: str, selector: Mapping[str, str], on_change: Callable[[Objects], None]
    ) -> None:
        self._api = api
        self._path = path
        self._selector = dict(selector)
        self._on_change = on_change
        self._objects: dict[str, Mapping[str, Any]] = {}
        self._version: str | None = None
        self._failures = 0

    async def run(self) -> None:
        """List, then watch, until cancelled; failures are waited out."""
        async with self._api.session() as session:
            while True:
                try:
                    if self._version is None:
                        await self._list(session)
                    await self._watch(session)
                except (aiohttp.ClientError, OSError, TimeoutError, UnknownDataError, orjson.JSONDecodeError) as error:
                    await self._back_off(error)

    async def _back_off(self, error: Exception) -> None:
        if self._failures == 0:
            _LOG.warning("watch of %s interrupted, the last known state stands: %r", self._path, error)
        first, longest = _BACKOFF_S
        wait = min(first * 2**self._failures, longest)
        self._failures = min(self._failures + 1, 10)
        await asyncio.sleep(wait * random.uniform(1.0, 1.5))

    def _healthy(self) -> None:
        if self._failures:
            _LOG.warning("watch of %s works again", self._path)
        self._failures = 0

    async def _list(self, session: aiohttp.ClientSession) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        url = self._api.url + self._path
        async with session.get(url, params=self._selector, headers=self._api.headers(), timeout=timeout) as response:
            body = await response.read()
            _check(response.status, body, url)
        answer = orjson.loads(body)
        self._objects = {item["metadata"]["name"]: item for item in answer["items"]}
        self._version = answer["metadata"]["resourceVersion"]
        self._healthy()
        self._on_change(self._objects)

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        assert self._version is not None  # noqa: S101 - run() lists first
        params = {
            **self._selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(WATCH_S),
        }
        timeout = aiohttp.ClientTimeout(total=WATCH_S + _GRACE_S, connect=_GRACE_S)
        url = self._api.url + self._path
        async with session.get(url, params=params, headers=self._api.headers(), timeout=timeout) as response:
            if response.status == _GONE:
                self._version = None
                return
            if response.status != 200:  # noqa: PLR2004 - HTTP OK
                _check(response.status, await response.read(), url)
            self._healthy()
            async for line in _lines(response):
                self._apply(orjson.loads(line))

    def _apply(self, event: Mapping[str, Any]) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            # Most often 410: the version is too old. Whatever it is, a fresh list is right.
            self._version = None
            raise UnknownDataError(f"the watch ended with {item.get('code')} {item.get('message')!r}")
        self._version = item["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        name = item["metadata"]["name"]
        if kind == "DELETED":
            self._objects.pop(name, None)
        else:
            self._objects[name] = item
        self._on_change(self._objects)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # Not readline(): it refuses lines longer than its buffer, and a pod may be longer.
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


def _check(status: int, body: bytes, url: str) -> None:
    if status != 200:  # noqa: PLR2004 - HTTP OK
        raise UnknownDataError(f"{url} answered {status}: {body[:300].decode(errors='replace')}")
