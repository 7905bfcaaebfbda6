"""One active instance by a Lease (coordination.k8s.io), as kube-controller-manager has it.

A lease counts as abandoned when this process itself has not seen it renewed for its whole duration: other machines'
clocks are not trusted. Who cannot renew in time must stop acting at once, before another may begin. Wall seconds.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dynamollm.adapters.kube import CONFLICT, Kube, KubeError, path

_LOG: Final = logging.getLogger(__name__)

DURATION_S: Final = 15.0
"""How long a lease that nobody renews stands (kube-controller-manager's default)."""
RENEW_DEADLINE_S: Final = 10.0
"""How long a holder tries to renew before it gives up: below the duration, so that two never act at once."""
RETRY_S: Final = 2.0
"""Between two attempts, of holder and candidates."""

_API: Final = "coordination.k8s.io/v1"


@dataclass(slots=True)
class Lease:
    """This process's part in one lease."""

    kube: Kube
    namespace: str
    name: str
    identity: str
    monotonic: Callable[[], float] = time.monotonic
    _seen: tuple[Any, ...] = field(default=(), init=False)
    _seen_s: float = field(default=0.0, init=False)

    async def acquire(self) -> None:
        """Return once this process holds the lease; waits as long as another does."""
        waiting_for = ""
        while True:
            try:
                holder = await self._try()
            except KubeError as error:
                _LOG.warning("cannot ask for lease %s: %s", self.name, error)
            else:
                if holder == self.identity:
                    _LOG.info("this process is active: it holds lease %s", self.name)
                    return
                if holder != waiting_for:
                    _LOG.info("standby: %s holds lease %s", holder, self.name)
                    waiting_for = holder
            await asyncio.sleep(RETRY_S)

    async def hold(self) -> None:
        """Renew the lease; return when it is lost."""
        renewed_s = self.monotonic()
        while True:
            await asyncio.sleep(RETRY_S)
            left_s = renewed_s + RENEW_DEADLINE_S - self.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    started_s = self.monotonic()
                    holder = await self._try()
            except (KubeError, TimeoutError) as error:
                _LOG.warning("cannot renew lease %s: %s", self.name, error or "no answer")
                if self.monotonic() - renewed_s >= RENEW_DEADLINE_S:
                    return
                continue
            if holder != self.identity:
                _LOG.warning("lease %s went to %s", self.name, holder)
                return
            renewed_s = started_s

    async def release(self) -> None:
        """Let another process have the lease at once; does nothing where this one does not hold it."""
        found = await self.kube.get(self._path)
        if found is None or found["spec"].get("holderIdentity") != self.identity:
            return
        version = found["metadata"]["resourceVersion"]
        await self.kube.patch(
            self._path, {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": "", "renewTime": _now()}}
        )

    @property
    def _path(self) -> str:
        return path(_API, "Lease", namespace=self.namespace, name=self.name)

    async def _try(self) -> str:
        """Take or renew the lease if that is allowed; return who holds it then."""
        found = await self.kube.get(self._path)
        now = _now()
        mine = {"holderIdentity": self.identity, "leaseDurationSeconds": round(DURATION_S), "renewTime": now}
        try:
            if found is None:
                metadata = {"name": self.name, "namespace": self.namespace}
                spec = {**mine, "acquireTime": now, "leaseTransitions": 0}
                await self.kube.create({"apiVersion": _API, "kind": "Lease", "metadata": metadata, "spec": spec})
                return self.identity
            spec = found["spec"]
            holder: str = spec.get("holderIdentity") or ""
            if holder not in ("", self.identity) and not self._abandoned(spec):
                return holder
            if holder != self.identity:
                mine |= {"acquireTime": now, "leaseTransitions": spec.get("leaseTransitions", 0) + 1}
            version = found["metadata"]["resourceVersion"]
            await self.kube.patch(self._path, {"metadata": {"resourceVersion": version}, "spec": mine})
        except KubeError as error:
            if error.status == CONFLICT:
                return "another process"  # it was faster; who it is the next attempt tells
            raise
        return self.identity

    def _abandoned(self, spec: dict[str, Any]) -> bool:
        state = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("acquireTime"))
        if state != self._seen:
            self._seen, self._seen_s = state, self.monotonic()
        return self.monotonic() - self._seen_s > float(spec.get("leaseDurationSeconds", DURATION_S))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
