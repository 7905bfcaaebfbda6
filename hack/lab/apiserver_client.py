"""A few JSON requests to the cluster's own API server, with nothing but the standard library: imported in no time."""

import http.client
import json
import ssl
from http import HTTPStatus
from typing import Any, Final

from lab.errors import LabError
from lab.pki import Pair

_TIMEOUT_S: Final = 10.0


class ApiClient:
    """One connection, opened anew when it broke."""

    def __init__(self, host: str, port: int, *, authority: str, user: Pair) -> None:
        self._host, self._port = host, port
        self._tls = ssl.create_default_context(cafile=authority)
        self._tls.load_cert_chain(user.certificate, user.key)
        self._connection: http.client.HTTPSConnection | None = None

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return status and answer.

        Raises:
            OSError, http.client.HTTPException: nobody answers.
        """
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_TIMEOUT_S, context=self._tls
            )
        try:
            data = None if body is None else json.dumps(body)
            self._connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            raise

    def get(self, path: str) -> dict[str, Any] | None:
        """Return an object or a list; None while it is not there or nobody answers."""
        try:
            status, answer = self.request("GET", path)
        except (OSError, http.client.HTTPException):
            return None
        found: dict[str, Any] = json.loads(answer) if status == HTTPStatus.OK else {}
        return found or None

    def ready(self) -> bool:
        """Return whether the API server says that it is ready."""
        try:
            return self.request("GET", "/readyz")[0] == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def create(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create an object and return what the API server made of it.

        Raises:
            LabError: it was refused.
        """
        status, answer = self.request("POST", path, manifest)
        if status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            raise LabError(f"the API server refused POST {path} ({status}): {answer.decode(errors='replace')[:300]}")
        created: dict[str, Any] = json.loads(answer)
        return created
