"""The objects of one service, kept as they should be with no write where they are so already."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dynamollm.adapters.kube import Kube, path, path_of
from dynamollm.api import names
from dynamollm.controller.objects.common import stamp
from dynamollm.controller.view import ClusterView

Object = Mapping[str, Any]

RECHECK_S: Final = 300.0
"""Wall seconds after which an object that is not watched is looked at again: somebody may have removed it."""


@dataclass(slots=True)
class Children:
    """One service's objects; Deployments and ConfigMaps are watched, the others looked at now and then."""

    kube: Kube
    view: ClusterView
    key: tuple[str, str]
    monotonic: Callable[[], float] = time.monotonic
    on_write: Callable[[str], None] = lambda _kind: None
    _checked: dict[str, tuple[str, float]] = field(default_factory=dict, init=False)
    _pools: set[str] | None = field(default=None, init=False)

    async def ensure(self, bodies: Iterable[Object]) -> None:
        """Apply those that are missing or other than they should be.

        Raises:
            KubeError: refused or no answer.
        """
        for body in bodies:
            if not await self._is_there(body):
                await self.apply(body)

    async def apply(self, body: Object) -> None:
        """Apply one whatever is there.

        Raises:
            KubeError: refused or no answer.
        """
        await self.kube.apply(body)
        self.on_write(body["kind"])
        self._checked[path_of(body)] = (stamp(body) or "", self.monotonic())

    async def remove_budgets(self, *, keep: set[str]) -> None:
        """Delete the PodDisruptionBudgets of pools that are gone.

        Raises:
            KubeError: refused or no answer.
        """
        namespace, service = self.key
        where = path("policy/v1", "PodDisruptionBudget", namespace=namespace)
        if self._pools is None:
            selector = f"{names.LABEL_SERVICE}={service}"
            found = await self.kube.list(where, label_selector=selector)
            self._pools = {budget["metadata"]["labels"][names.LABEL_POOL] for budget in found}
        for pool in sorted(self._pools - keep):
            name = f"{where}/{service}-{pool}"
            await self.kube.delete(name)
            self._checked.pop(name, None)
        self._pools = keep

    async def _is_there(self, body: Object) -> bool:
        wanted = stamp(body)
        kind, name = body["kind"], body["metadata"]["name"]
        if kind == "ConfigMap":
            found = self.view.config_map(self.key, name)
        elif kind == "Deployment":
            found = next((one for one in self.view.deployments(self.key) if one["metadata"]["name"] == name), None)
            # Somebody may have scaled it, and left our annotation.
            if found is not None and found["spec"].get("replicas") != body["spec"]["replicas"]:
                return False
        else:
            where = path_of(body)
            known, checked_s = self._checked.get(where, ("", 0.0))
            if known == wanted and self.monotonic() - checked_s < RECHECK_S:
                return True
            found = await self.kube.get(where)
            if found is not None and stamp(found) == wanted:
                self._checked[where] = (stamp(found) or "", self.monotonic())
        return found is not None and stamp(found) == wanted
