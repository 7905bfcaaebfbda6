"""What has to be over before the chart's objects may go: run once, in the chart's pre-delete hook.

Helm deletes the operator, the agents and the rights of both at the same moment. After that nobody takes a finalizer off,
and an agent that is cut short leaves a clock locked. So this comes first, in an order in which nothing comes back:
services (where they are to go, while the operator can still see them out), the operator, the agents, the finalizers.

Every step may have been done already: an uninstall that was cut short is run again. Wall seconds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from dynamollm.adapters.kube import CONFLICT, NOT_FOUND, Kube, KubeError, path
from dynamollm.api import names

_LOG: Final = logging.getLogger(__name__)
_API: Final = f"{names.GROUP}/{names.VERSION}"
_POLL_S: Final = 0.5
STOP_S: Final = 60.0
"""How long the pods of one part may take to end: beyond their grace period of 45 s at most. Those on a node that is gone
never do; they cannot reach the API server either, and their clocks go back when the plan's lease ends."""


class Services(StrEnum):
    """What becomes of InferenceServices."""

    KEEP = "Keep"
    """They stay, and so does all that serves them; nobody looks after it."""
    DELETE = "Delete"
    """They go, and with them all that serves them."""


@dataclass(frozen=True, slots=True)
class Uninstall:
    """One uninstall."""

    kube: Kube
    namespace: str
    """Of operator and agents."""
    services: Services
    timeout_s: float
    """How long the operator may take to see all services out."""
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)

    async def run(self) -> None:
        """Do all of it; what takes too long is told and left behind.

        Raises:
            KubeError: the API server refuses or does not answer: nothing may be taken away then.
        """
        if self.services is Services.DELETE:
            await self._delete_services()
        await self._end("Deployment", names.OPERATOR_DEPLOYMENT)
        await self._end("DaemonSet", names.AGENT_DAEMONSET)
        for name in await self._release():
            _LOG.info("InferenceService %s no longer waits for an operator", name)
        # helm never deletes the pod of a test that has passed.
        await self.kube.delete(path("v1", "Pod", namespace=self.namespace, name=names.CHECK_POD))

    async def _delete_services(self) -> None:
        for service in await self._all():
            await self.kube.delete(_where(service), uid=service["metadata"]["uid"])
        if not await self._until(self._no_service, self.timeout_s):
            left = [_name(service) for service in await self._all()]
            _LOG.warning("after %g s the operator has not let go of %s: it is done without it", self.timeout_s, left)

    async def _end(self, kind: str, name: str) -> None:
        """Delete a workload and wait for the end of its pods."""
        await self.kube.delete(path("apps/v1", kind, namespace=self.namespace, name=name))

        async def gone() -> bool:
            return not await self._pods(name)

        if await self._until(gone, STOP_S):
            _LOG.info("%s has ended", name)
        else:
            _LOG.warning("after %g s there still are %s: are their nodes up?", STOP_S, await self._pods(name))

    async def _pods(self, name: str) -> list[str]:
        where = path("v1", "Pod", namespace=self.namespace)
        return [_name(pod) for pod in await self.kube.list(where, label_selector=f"{names.LABEL_NAME}={name}")]

    async def _release(self) -> list[str]:
        """Take our finalizer off every service and return their names; somebody else's stay."""
        released: list[str] = []
        while held := [service for service in await self._all() if names.FINALIZER in _finalizers(service)]:
            for service in held:
                version = service["metadata"]["resourceVersion"]
                others = [entry for entry in _finalizers(service) if entry != names.FINALIZER]
                try:
                    await self.kube.patch(
                        _where(service), {"metadata": {"resourceVersion": version, "finalizers": others}}
                    )
                except KubeError as error:
                    if error.status not in (CONFLICT, NOT_FOUND):  # changed or gone meanwhile: looked at again
                        raise
                else:
                    released.append(_name(service))
        return released

    async def _no_service(self) -> bool:
        return not await self._all()

    async def _all(self) -> list[dict[str, Any]]:
        try:
            return await self.kube.list(path(_API, "InferenceService"))
        except KubeError as error:
            if error.status == NOT_FOUND:  # somebody deleted the definition, and all services with it
                return []
            raise

    async def _until(self, done: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
        waited_s = 0.0
        while not await done():
            if waited_s >= timeout_s:
                return False
            await self.sleep(_POLL_S)
            waited_s += _POLL_S
        return True


def _where(service: dict[str, Any]) -> str:
    metadata = service["metadata"]
    return path(_API, "InferenceService", namespace=metadata["namespace"], name=metadata["name"])


def _name(body: dict[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


def _finalizers(service: dict[str, Any]) -> Iterable[str]:
    finalizers: list[str] = service["metadata"].get("finalizers") or []
    return finalizers
