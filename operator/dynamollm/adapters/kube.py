"""The Kubernetes API for what kopf does not give: server-side apply, patches, deletes with preconditions, lists.

On kubernetes.aio's transport (credentials, token rotation, TLS) and plain dicts: its generated models are strict about
answers, and an API server that is one version ahead must not stop an operator.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson
from kubernetes.aio import client, config

from dynamollm.api.names import FIELD_MANAGER
from dynamollm.core.errors import DynamoLLMError

REQUEST_TIMEOUT_S: Final = 10.0
"""Wall seconds that one request may take: a cycle must not hang on one."""
PAGE: Final = 500
"""Objects a page of a list: the size that the API server serves from its cache without strain."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

NOT_FOUND: Final = 404
CONFLICT: Final = 409

_PLURALS: Final[Mapping[str, str]] = {
    "ConfigMap": "configmaps",
    "CustomResourceDefinition": "customresourcedefinitions",
    "DaemonSet": "daemonsets",
    "Deployment": "deployments",
    "Event": "events",
    "InferenceService": "inferenceservices",
    "Lease": "leases",
    "Node": "nodes",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "RoleBinding": "rolebindings",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}
"""Kinds that we touch."""

Object = Mapping[str, Any]


class KubeError(DynamoLLMError):
    """The API server refused a request or did not answer.

    Args:
        message: what was asked, and what it said.
        status: the HTTP status, or None where there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def path(api_version: str, kind: str, *, namespace: str | None = None, name: str | None = None) -> str:
    """Return the path of a list, or of one object."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{_PLURALS[kind]}" + (f"/{name}" if name else "")


def path_of(body: Object) -> str:
    """Return the path of an object."""
    metadata = body["metadata"]
    return path(body["apiVersion"], body["kind"], namespace=metadata.get("namespace"), name=metadata["name"])


class Kube:
    """One API server."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @classmethod
    @asynccontextmanager
    async def in_cluster(cls) -> AsyncIterator["Kube"]:
        """Connect with this pod's service account.

        Raises:
            KubeError: this process is not in a pod.
        """
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise KubeError(f"no service account to reach the Kubernetes API with: {error}") from error
        async with client.ApiClient(configuration=configuration) as api:
            yield cls(api)

    async def get(self, where: str) -> dict[str, Any] | None:
        """Return an object, or None where there is none.

        Raises:
            KubeError: refused or no answer.
        """
        try:
            return await self._request("GET", where)
        except KubeError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def list(self, where: str, *, label_selector: str = "", field_selector: str = "") -> list[dict[str, Any]]:
        """Return all objects of a list, page by page.

        Raises:
            KubeError: refused or no answer.
        """
        query = {"limit": str(PAGE)}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        items: list[dict[str, Any]] = []
        while True:
            answer = await self._request("GET", where, query=query)
            items += answer["items"]
            token = answer["metadata"].get("continue")
            if not token:
                return items
            query["continue"] = token

    async def create(self, body: Object) -> dict[str, Any]:
        """Create an object.

        Raises:
            KubeError: refused (409: it exists) or no answer.
        """
        metadata = body["metadata"]
        where = path(body["apiVersion"], body["kind"], namespace=metadata.get("namespace"))
        return await self._request("POST", where, body=body, query={"fieldManager": FIELD_MANAGER})

    async def apply(self, body: Object) -> dict[str, Any]:
        """Make an object have these fields by server-side apply, created where it is missing; ours win conflicts.

        Raises:
            KubeError: refused or no answer.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path_of(body), body=body, query=query, content_type=APPLY_PATCH)

    async def patch(self, where: str, body: Object) -> dict[str, Any]:
        """Apply a JSON merge patch; ``metadata.resourceVersion`` in it makes it conditional (409).

        Raises:
            KubeError: refused or no answer.
        """
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", where, body=body, query=query, content_type=MERGE_PATCH)

    async def delete(self, where: str, *, uid: str | None = None) -> bool:
        """Delete an object and in the background what it owns; return whether there was one.

        With ``uid`` only that very object: one that has its name by now stays (409).

        Raises:
            KubeError: refused or no answer.
        """
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._request("DELETE", where, body=body)
        except KubeError as error:
            if error.status == NOT_FOUND:
                return False
            raise
        return True

    async def _request(
        self,
        method: str,
        where: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        try:
            verb, url, headers, _, _ = await self._api.param_serialize(
                method,
                where,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                auth_settings=["BearerToken"],
            )
            # The body goes as it is: the client's own serialisation is for its models.
            response = await self._api.call_api(
                verb, url, headers, body=dict(body) if body is not None else None, _request_timeout=_TIMEOUT
            )
            data: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeError(f"{method} {where}: the API server does not answer ({error!r})") from error
        if not 200 <= response.status < 300:  # noqa: PLR2004 - HTTP success
            raise KubeError(f"{method} {where}: {response.status} {_message(data)}", status=response.status)
        answer: dict[str, Any] = orjson.loads(data)
        return answer


def _message(data: bytes) -> str:
    try:
        text = str(orjson.loads(data).get("message", ""))
    except (orjson.JSONDecodeError, AttributeError):
        text = data[:300].decode(errors="replace")
    return text
