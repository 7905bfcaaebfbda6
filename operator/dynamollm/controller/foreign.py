"""GPUs that pods of others hold. They are listed now and then, not watched: a cluster has many pods and few of them matter."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dynamollm.adapters.kube import Kube, KubeError, path
from dynamollm.api import names
from dynamollm.controller.inventory import held_gpus, pod_gpus

_LOG: Final = logging.getLogger(__name__)

REFRESH_S: Final = 30.0
"""Wall seconds between two lists: what others take in between shows as a Pending pod of ours, which is bounded."""


@dataclass(slots=True)
class ForeignPods:
    """Pods without our label."""

    kube: Kube
    monotonic: Callable[[], float] = time.monotonic
    _pods: list[dict[str, Any]] | None = field(default=None, init=False)
    _listed_s: float = field(default=0.0, init=False)

    async def refresh(self) -> None:
        """List anew when it is time; the last list stands where that fails.

        Raises:
            KubeError: there is no list yet.
        """
        if self._pods is not None and self.monotonic() - self._listed_s < REFRESH_S:
            return
        try:
            pods = await self.kube.list(
                path("v1", "Pod"),
                label_selector=f"!{names.LABEL_SERVICE}",
                field_selector="spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed",
            )
        except KubeError as error:
            if self._pods is None:
                raise
            _LOG.warning("the pods of others were not listed, the last list stands: %s", error)
        else:
            self._pods = [{"spec": pod["spec"], "status": {}} for pod in pods if _requests_extended(pod)]
        self._listed_s = self.monotonic()

    def held(self, resource: str) -> dict[str, int]:
        """Return how many GPUs they hold, by node."""
        return held_gpus((pod for pod in self._pods or () if pod_gpus(pod, resource=resource)), resource=resource)


def _requests_extended(pod: dict[str, Any]) -> bool:
    """Tell whether a pod requests anything of a vendor's: CPU and memory have no slash in their names."""
    containers = [*pod["spec"].get("containers", ()), *pod["spec"].get("initContainers", ())]
    return any(
        "/" in name
        for container in containers
        for kind in ("requests", "limits")
        for name in (container.get("resources") or {}).get(kind) or {}
    )
