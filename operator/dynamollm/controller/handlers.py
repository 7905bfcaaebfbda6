"""What kopf calls: indexes, wake-ups, and one daemon per service. Decorators only; the bodies are elsewhere."""

from collections.abc import Mapping
from typing import Any, Final

import kopf

from dynamollm.adapters.podwatch import ApiAccess
from dynamollm.api import names
from dynamollm.controller.reconcile_service import Reconciler
from dynamollm.controller.run_service import Progress, Wakes, run_service
from dynamollm.controller.shared import Shared
from dynamollm.controller.view import service_of

_OWN: Final = (names.GROUP, names.VERSION)
_OURS: Final[Mapping[str, Any]] = {names.LABEL_SERVICE: kopf.PRESENT}
_WATCH_S: Final = 300
"""Wall seconds after which each watch is begun anew: bounds how long one that died silently goes unnoticed. A whole
number: kopf hands it on as it is, and the API server refuses 300.0."""


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: watch only what is ours, write nothing but the finalizer, never wait for ever."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.watching.server_timeout = _WATCH_S
    chosen.watching.client_timeout = _WATCH_S + 30
    chosen.watching.connect_timeout = 10
    chosen.watching.chunk_size = 500
    # The form 'v1/pods' matches nothing in kopf 1.45.2.
    for resource in ("pods.v1", "configmaps.v1", "deployments.v1.apps"):
        chosen.watching.label_selectors[resource] = names.LABEL_SERVICE
    chosen.execution.default_backoff = 5
    chosen.networking.request_timeout = 10
    chosen.networking.connect_timeout = 5
    chosen.persistence.finalizer = names.FINALIZER
    chosen.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    chosen.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=names.GROUP)
    # A daemon ends within its cycle: wait for that rather than poll through patches of the object.
    chosen.background.instant_exit_timeout = 2.0
    return chosen


def register(shared: Shared, *, api: ApiAccess, wakes: Wakes, progress: Progress) -> kopf.OperatorRegistry:
    """Return the handlers."""
    registry = kopf.OperatorRegistry()
    _register_login(registry, api)
    _register_indexes(registry)
    _register_wakes(registry, wakes)

    @kopf.daemon(*_OWN, names.SERVICES, id="service", registry=registry, cancellation_timeout=60)
    async def service(namespace: str | None, name: str, body: kopf.Body, stopped: Any, **kwargs: Any) -> None:
        key = (namespace or "", name)
        shared.view.bind(kwargs)
        try:
            await run_service(
                Reconciler(shared=shared, key=key),
                body=lambda: dict(body),
                stopped=stopped,
                wake=wakes.event(key),
                progress=progress,
            )
        finally:
            # Also without our finalizer, when somebody took it off. At the operator's own end the service is still there.
            if body["metadata"].get("deletionTimestamp") or key not in shared.view.services():
                _release(shared, wakes, key)

    return registry


def _release(shared: Shared, wakes: Wakes, key: tuple[str, str]) -> None:
    """Give back what no owner reference does: clocks, GPUs in the book, series and memories."""
    shared.clock_plan.release(key)
    shared.book.release(key)
    shared.metrics.forget(key)
    shared.source.forget(namespace=key[0], name=key[1])
    wakes.forget(key)


def _register_login(registry: kopf.OperatorRegistry, api: ApiAccess) -> None:
    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        # kopf's own service account login asks DNS for kubernetes.default.svc; the environment needs none.
        token = api.token_file.read_text().strip() if api.token_file else None
        return kopf.ConnectionInfo(
            server=api.url, ca_path=str(api.ca_file) if api.ca_file else None, scheme="Bearer", token=token
        )


def _register_indexes(registry: kopf.OperatorRegistry) -> None:
    @kopf.index(*_OWN, names.SERVICES, id="services", registry=registry)
    def services(namespace: str | None, name: str, body: kopf.Body, **_: Any) -> dict[Any, Any]:
        return {(namespace, name): dict(body)}

    @kopf.index("pods", labels=_OURS, id="pods", registry=registry)
    def pods(body: kopf.Body, **_: Any) -> dict[Any, Any]:
        return {service_of(body): dict(body)}

    @kopf.index("apps", "deployments", labels=_OURS, id="deployments", registry=registry)
    def deployments(body: kopf.Body, **_: Any) -> dict[Any, Any]:
        return {service_of(body): dict(body)}

    @kopf.index("configmaps", labels=_OURS, id="config_maps", registry=registry)
    def config_maps(body: kopf.Body, **_: Any) -> dict[Any, Any]:
        return {service_of(body): dict(body)}

    @kopf.index("nodes", id="nodes", registry=registry)
    def nodes(name: str, body: kopf.Body, **_: Any) -> dict[Any, Any]:
        # A kubelet's status is mostly names of images: only what is looked at is kept.
        status = {key: body.get("status", {}).get(key) for key in ("allocatable", "conditions")}
        return {name: {"metadata": body["metadata"], "spec": body["spec"], "status": status}}

    @kopf.index(*_OWN, names.PROFILES, id="profiles", registry=registry)
    def profiles(name: str, body: kopf.Body, **_: Any) -> dict[Any, Any]:
        return {name: dict(body)}

    @kopf.index(*_OWN, names.POLICIES, id="policies", registry=registry)
    def policies(name: str, body: kopf.Body, **_: Any) -> dict[Any, Any]:
        return {name: dict(body)}


def _register_wakes(registry: kopf.OperatorRegistry, wakes: Wakes) -> None:
    # The heartbeat of each service would see all of this too; these make it prompt.
    @kopf.on.event(*_OWN, names.SERVICES, registry=registry)
    async def service_changed(namespace: str | None, name: str, **_: Any) -> None:
        wakes.wake((namespace or "", name))

    @kopf.on.event("pods", labels=_OURS, registry=registry)
    async def pod_changed(body: kopf.Body, **_: Any) -> None:
        if key := service_of(body):
            wakes.wake(key)

    @kopf.on.event("apps", "deployments", labels=_OURS, registry=registry)
    async def deployment_changed(body: kopf.Body, **_: Any) -> None:
        if key := service_of(body):
            wakes.wake(key)

    @kopf.on.event(*_OWN, names.PROFILES, registry=registry)
    async def profile_changed(**_: Any) -> None:
        wakes.wake_all()

    @kopf.on.event(*_OWN, names.POLICIES, registry=registry)
    async def policy_changed(**_: Any) -> None:
        wakes.wake_all()
