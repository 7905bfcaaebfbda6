"""The API server as a kubelet uses it: list and watch its pods, read what they mount, report their status."""

import asyncio
import base64
import logging
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import orjson
import yaml

from lab.errors import LabError

_LOG = logging.getLogger(__name__)

_WATCH_S: Final = 60
_TIMEOUT: Final = aiohttp.ClientTimeout(total=15)
_RETRY_S: Final = 0.5
_LONGEST_RETRY_S: Final = 10.0
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409

Pod = dict[str, Any]


class ConflictError(LabError):
    """The object is another one than the request is about."""


class Api:
    """Authenticated JSON requests to one API server."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server: str = cluster["server"]
        self.authority = _content(cluster, "certificate-authority").decode()
        context = ssl.create_default_context(cadata=self.authority)
        self._headers: dict[str, str] = {}
        if "token" in user:
            self._headers["Authorization"] = f"Bearer {user['token']}"
        else:
            with tempfile.TemporaryDirectory(prefix="dynamollm-") as folder:
                pair = []
                for key in ("client-certificate", "client-key"):
                    file = Path(folder) / key
                    file.touch(mode=0o600)
                    file.write_bytes(_content(user, key))
                    pair.append(file)
                context.load_cert_chain(pair[0], pair[1])
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connections."""
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        self._session = aiohttp.ClientSession(self.server, connector=connector, headers=self._headers, timeout=_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        if self._session:
            await self._session.close()

    async def request(self, method: str, path: str, *, body: Any = None, content_type: str = "application/json") -> Any:
        """Return the answer's JSON; None where the object is not there.

        Raises:
            ConflictError: the object is not as the request says.
            LabError: any other answer.
            aiohttp.ClientError, TimeoutError: none.
        """
        assert self._session  # noqa: S101 - the class is a context manager
        data = None if body is None else orjson.dumps(body)
        async with self._session.request(method, path, data=data, headers={"Content-Type": content_type}) as response:
            answer = await response.read()
            if response.status == _NOT_FOUND:
                return None
            if response.status == _CONFLICT:
                raise ConflictError(f"{method} {path}: {answer[:300].decode(errors='replace')}")
            if response.status >= 300:  # noqa: PLR2004 - HTTP: beyond success
                raise LabError(f"{method} {path} answered {response.status}: {answer[:300].decode(errors='replace')}")
            return orjson.loads(answer)

    async def get(self, path: str) -> Any:
        """Return an object; None where it is not there."""
        return await self.request("GET", path)

    async def watch(self, path: str, params: Mapping[str, str], on_change: Callable[[str, Pod], None]) -> None:
        """List and watch for ever; ``on_change`` gets ADDED, MODIFIED or DELETED and the object.

        After a gap everything is listed anew, and what is gone is told as DELETED.
        """
        known: dict[str, Pod] = {}
        while True:
            try:
                await self._watch_once(path, params, known, on_change)
            except (aiohttp.ClientError, TimeoutError, OSError, LabError, orjson.JSONDecodeError) as error:
                _LOG.warning("watch of %s is interrupted: %r", path, error)
                await asyncio.sleep(_RETRY_S)

    async def _watch_once(
        self, path: str, params: Mapping[str, str], known: dict[str, Pod], on_change: Callable[[str, Pod], None]
    ) -> None:
        assert self._session  # noqa: S101 - as above
        query = "&".join(f"{key}={value}" for key, value in params.items())
        listed = await self.get(f"{path}?{query}")
        now = {item["metadata"]["uid"]: item for item in listed["items"]}
        for uid in known.keys() - now.keys():
            on_change("DELETED", known.pop(uid))
        for uid, item in now.items():
            known[uid] = item
            on_change("ADDED", item)
        version = listed["metadata"]["resourceVersion"]
        while True:
            watch = {**params, "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "1"}
            timeout = aiohttp.ClientTimeout(total=_WATCH_S + 10)
            url = f"{path}?{'&'.join(f'{key}={value}' for key, value in watch.items())}&timeoutSeconds={_WATCH_S}"
            async with self._session.get(url, timeout=timeout) as response:
                if response.status != 200:  # noqa: PLR2004 - HTTP OK
                    raise LabError(f"it answered {response.status}")
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = orjson.loads(line)
                        item = event["object"]
                        if event["type"] == "ERROR":
                            raise LabError(str(item.get("message")))
                        version = item["metadata"]["resourceVersion"]
                        if event["type"] == "BOOKMARK":
                            continue
                        if event["type"] == "DELETED":
                            known.pop(item["metadata"]["uid"], None)
                        else:
                            known[item["metadata"]["uid"]] = item
                        on_change(event["type"], item)


async def persist(what: str, attempt: Callable[[], Awaitable[Any]]) -> Any:
    """Return what the attempt gives, repeating it, ever less often, while the API server does not take it."""
    delay_s = _RETRY_S
    while True:
        try:
            return await attempt()
        except (aiohttp.ClientError, TimeoutError, OSError, LabError) as error:
            _LOG.warning("%s: %s; again in %g s", what, error, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_RETRY_S)


def _content(section: Mapping[str, str], key: str) -> bytes:
    return Path(section[key]).read_bytes() if key in section else base64.b64decode(section[f"{key}-data"])
