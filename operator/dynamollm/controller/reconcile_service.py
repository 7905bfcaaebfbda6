"""One cycle of one service: observe → decide → act → report. Everything that is decided, the core decides."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from dynamollm.adapters.kube import path
from dynamollm.api import names
from dynamollm.api.inferenceservice_status import InferenceServiceStatus
from dynamollm.controller.act import act
from dynamollm.controller.budget import Grant
from dynamollm.controller.children import Children
from dynamollm.controller.conditions import Conditions, transitions
from dynamollm.controller.events import emit
from dynamollm.controller.forecast_watch import ForecastWatch
from dynamollm.controller.judge import judge
from dynamollm.controller.look import Look, look, unshared
from dynamollm.controller.objects.engine import disruption_budget, engine_deployment, profile_config_map
from dynamollm.controller.objects.engine_start import options_config_map
from dynamollm.controller.objects.router import router_objects, routing_config_map
from dynamollm.controller.observe import timestamp_s
from dynamollm.controller.report import MEASURED_S, difference, status_of, without_measured
from dynamollm.controller.shared import Shared
from dynamollm.controller.subject import Subject, UnfitError, understand
from dynamollm.core.actions import clock_ladders, steps
from dynamollm.core.classes import RequestClass
from dynamollm.core.decide import decide
from dynamollm.core.errors import InvalidInputError, OutOfRangeError
from dynamollm.core.feedback import correction_at
from dynamollm.core.moves import (
    Action,
    SetClocks,
)
from dynamollm.core.plan_codec import decode, encode
from dynamollm.core.policies.base import HOLDING, Reason
from dynamollm.core.prices import priced
from dynamollm.core.profile import Profile
from dynamollm.core.records import (
    Plan,
    Service,
)

_LOG: Final = logging.getLogger(__name__)

Object = Mapping[str, Any]


@dataclass(slots=True)
class Reconciler:
    """The cycles of one service, with what it must remember between them: nothing that a restart would miss."""

    shared: Shared
    key: tuple[str, str]
    children: Children = field(init=False)
    _written: Object | None = field(default=None, init=False)
    """The service as our last write left it: kopf's watch may be a moment behind."""
    _measured_s: float = field(default=float("-inf"), init=False)
    _understood: tuple[tuple[Any, ...], Subject] | None = field(default=None, init=False)
    """The last subject and what it was made of: a profile keeps what it has computed."""
    _wanted: tuple[Plan, Plan] | None = field(default=None, init=False)
    """The last plan that found too little, and the one that it would have been."""

    _forecast: ForecastWatch = field(default_factory=ForecastWatch, init=False)

    def __post_init__(self) -> None:
        self.children = Children(
            kube=self.shared.kube, view=self.shared.view, key=self.key, on_write=self.shared.metrics.write
        )

    async def cycle(self, body: Object) -> str:
        """Do one cycle and return its result for metrics: planned, paused or unfit.

        Raises:
            KubeError: a read or write failed; what was done stays, and the next cycle goes on from there.
        """
        shared, started_s = self.shared, time.monotonic()
        body = _newest(body, self._written)
        await shared.resume()
        spec = body["spec"]
        if spec.get("paused"):
            shared.clock_plan.keep(self.key)
            await self._pause(body)
            return "paused"
        profile_name = spec.get("profileRef", {}).get("name", "")
        try:
            subject = self._understand(body, shared.view.profile(profile_name))
        except UnfitError as error:
            await self.unfit(body, error)
            return "unfit"
        reading = await shared.source.read(
            subject.service, created_s=timestamp_s(body["metadata"]["creationTimestamp"])
        )
        if reading.load is None:
            shared.metrics.unknown(self.key, reading.reason or "LoadUnknown")
        await shared.foreign.refresh()
        before = _status(body)
        now_s = shared.clock.now_s()
        async with shared.deciding:
            seen = look(
                subject,
                view=shared.view,
                book=shared.book,
                reading=reading,
                foreign=shared.foreign.held(subject.owner.spec.gpu.resource),
                plan=_plan_in_force(subject, before),
                clock=shared.clock,
            )
            service = priced(subject.service, seen.policy, now_s=now_s)
            try:
                # In a thread: the planner may take seconds, and the lease must be renewed meanwhile.
                plan = await asyncio.to_thread(
                    decide,
                    service,
                    subject.profile,
                    seen.observation,
                    now_s=now_s,
                    available_gpus=seen.available_gpus,
                    available_watts=seen.available_watts,
                )
            except OutOfRangeError as error:
                await self.unfit(body, UnfitError("Planned", "LoadOutsideProfile", str(error)))
                return "unfit"
            if subject.owner.spec.mode == "Enforce":
                wanted = await self._wanted_instead(service, subject.profile, seen, plan, now_s=now_s)
                shared.book.grant(
                    self.key,
                    Grant(gpus=plan.gpus, watts=plan.power_w, wanted_gpus=wanted.gpus, wanted_watts=wanted.power_w),
                )
            else:
                shared.book.release(self.key)
        shared.metrics.plan(self.key, gpus=plan.gpus, power_w=plan.power_w, correction=correction_at(plan, now_s=now_s))
        actions: tuple[Action, ...] = ()
        if subject.owner.spec.mode == "Enforce":
            body = await self._keep_plan(body, before, plan)
            actions = await self._enforce(subject, seen, plan, now_s=now_s)
        else:
            shared.clock_plan.release(self.key)
        await self._report(body, subject, seen, plan, actions=actions, before=before, now_s=now_s)
        self._log(subject, seen, plan, actions, seconds=time.monotonic() - started_s)
        return "planned"

    def _understand(self, body: Object, profile: Object | None) -> Subject:
        made_of = tuple(
            (one["metadata"]["uid"], one["metadata"]["generation"]) for one in (body, profile) if one is not None
        )
        if self._understood is None or self._understood[0] != made_of:
            subject = understand(
                body,
                profile,
                image=self.shared.image,
                clock=self.shared.clock,
                every_address=self.shared.every_address,
            )
            self._understood = (made_of, subject)
        return self._understood[1]

    async def _wanted_instead(
        self, service: Service, profile: Profile, seen: Look, plan: Plan, *, now_s: float
    ) -> Plan:
        """Return the plan that there would be if services of lower priority held nothing; else the plan itself."""
        if plan.reason != Reason.CAPACITY_UNAVAILABLE or not seen.others_would_give:
            return plan
        if self._wanted is None or self._wanted[0] != plan:
            nodes = unshared(seen.observation)
            wanted = await asyncio.to_thread(
                decide, service, profile, nodes, now_s=now_s, available_gpus=sum(node.free for node in nodes.nodes)
            )
            self._wanted = (plan, wanted)
        return self._wanted[1]

    # -------------------------------------------------------------- act
    async def _keep_plan(self, body: Object, before: InferenceServiceStatus, plan: Plan) -> Object:
        """Write the plan down before anything is done for it: a restart half-way goes on with the same one."""
        whole = encode(plan)
        if before.plan == whole:
            return body
        change = difference({"plan": before.plan} if before.plan else {}, {"plan": whole})
        return await self._write_status(body, change)

    async def _enforce(self, subject: Subject, seen: Look, plan: Plan, *, now_s: float) -> tuple[Action, ...]:
        shared, owner, observation = self.shared, subject.owner, seen.observation
        if owner.spec.engine.type == "Simulated":
            await self.children.ensure([profile_config_map(owner, subject.profile_spec)])
        if owner.spec.engine.type == "TensorRTLLM":
            await self.children.ensure([options_config_map(owner)])
        await self.children.ensure(router_objects(owner))
        pools = {pool.name for pool in plan.pools if pool.instances} | {i.pool for i in observation.instances}
        await self.children.ensure(disruption_budget(owner, pool=pool) for pool in sorted(pools))
        await self.children.remove_budgets(keep=pools)
        # A spec that changed reaches what is there already; how many there are is the actions' business alone.
        wanted = {(pool.name, group.tensor_parallel) for pool in plan.pools for group in pool.groups}
        await self.children.ensure(
            engine_deployment(
                owner,
                subject.profile_spec,
                pool=group.pool,
                tensor_parallel=group.tensor_parallel,
                replicas=group.replicas,
            )
            for group in observation.groups
            if (group.pool, group.tensor_parallel) in wanted
        )
        if observation.routing.keys() == set(RequestClass):
            await self.children.ensure(
                [routing_config_map(owner, subject.service, observation.routing, pools=plan.pools)]
            )
        clocks = subject.profile.clocks_mhz
        shared.clock_plan.set(
            self.key, clock_ladders(plan, observation), min_mhz=min(clocks), max_mhz=subject.profile.max_clock_mhz
        )
        bounded = replace(subject.service, limits=replace(subject.service.limits, max_gpus=seen.limit_gpus))
        actions = steps(bounded, plan, observation, now_s=now_s)
        for action in actions:
            await act(action, subject, plan, kube=shared.kube, children=self.children)
            shared.metrics.action(self.key, type(action).__name__)
        return actions

    # -------------------------------------------------------------- report
    async def _report(
        self,
        body: Object,
        subject: Subject,
        seen: Look,
        plan: Plan,
        *,
        actions: Sequence[Action],
        before: InferenceServiceStatus,
        now_s: float,
    ) -> None:
        generation = body["metadata"]["generation"]
        conditions = Conditions(previous=before.conditions, now=_now(), generation=generation)
        judge(conditions, subject, seen, plan, actions=actions, now_s=now_s)
        watched = self._forecast.look(
            subject.service, seen.reading.load, startup_s=subject.profile.startup_s, now_s=now_s
        )
        if watched is not None:
            self.shared.metrics.forecast(self.key, watched.quality)
        after = status_of(
            subject,
            seen,
            plan,
            generation=generation,
            conditions=conditions.result(),
            before=before,
            now_s=now_s,
            watched=watched,
        )
        await self._put_status(body, after)
        await self._tell(body, before, after)
        if _news(_plan_in_force(subject, before), plan):
            await emit(
                self.shared.kube,
                body,
                reason=str(plan.reason),
                message=plan.message,
                warning=plan.reason in HOLDING,
            )

    async def _pause(self, body: Object) -> None:
        before = _status(body)
        generation = body["metadata"]["generation"]
        conditions = Conditions(previous=before.conditions, now=_now(), generation=generation)
        conditions.set(
            "Paused",
            "True",
            "SpecPaused",
            "spec.paused is true: everything stays as it is, clocks follow the last plan; set it to false to go on.",
        )
        after = before.model_copy(update={"observed_generation": generation, "conditions": conditions.result()})
        await self._put_status(body, after)
        await self._tell(body, before, after)

    async def unfit(self, body: Object, error: UnfitError) -> None:
        """Say that a service cannot be planned; what is there stays as it is, and its clocks run out to default.

        Raises:
            KubeError: refused or no answer.
        """
        before = _status(body)
        generation = body["metadata"]["generation"]
        conditions = Conditions(previous=before.conditions, now=_now(), generation=generation)
        conditions.set("Paused", "False", "NotPaused", "The operator acts on this service.")
        if error.condition != "Planned":
            conditions.set(error.condition, "False", error.reason, str(error))
        conditions.set("Planned", "False", error.reason, str(error))
        conditions.set("Ready", "Unknown", error.reason, "Nothing is looked at until the service can be planned.")
        after = before.model_copy(update={"observed_generation": generation, "conditions": conditions.result()})
        await self._put_status(body, after)
        await self._tell(body, before, after)

    async def failed(self, body: Object, error: Exception) -> None:
        """Say that a cycle failed.

        Raises:
            KubeError: refused or no answer.
        """
        body = _newest(body, self._written)
        before = _status(body)
        conditions = Conditions(previous=before.conditions, now=_now(), generation=body["metadata"]["generation"])
        conditions.set(
            "Converged",
            "False",
            "CycleFailed",
            f"The last cycle failed and is tried again: {error}. See the operator's log if it stays so.",
        )
        after = before.model_copy(update={"conditions": conditions.result()})
        await self._put_status(body, after)
        await self._tell(body, before, after)

    async def _tell(self, body: Object, before: InferenceServiceStatus, after: InferenceServiceStatus) -> None:
        for one in transitions(before.conditions, after.conditions):
            await emit(self.shared.kube, body, reason=one.reason, message=one.message, warning=one.warning)

    async def _put_status(self, body: Object, status: InferenceServiceStatus) -> None:
        old, new = body.get("status") or {}, status.to_resource()
        now_s = self.shared.clock.now_s()
        if without_measured(old) == without_measured(new) and now_s - self._measured_s < MEASURED_S:
            return
        if change := difference(old, new):
            self._measured_s = now_s
            await self._write_status(body, change)

    async def _write_status(self, body: Object, change: Mapping[str, Any]) -> Object:
        namespace, name = self.key
        where = path(f"{names.GROUP}/{names.VERSION}", "InferenceService", namespace=namespace, name=name)
        self._written = await self.shared.kube.patch(f"{where}/status", {"status": change})
        self.shared.metrics.write("InferenceServiceStatus")
        # The cycle goes on with the spec that it began with.
        return {**body, "metadata": self._written["metadata"], "status": self._written.get("status", {})}

    def _log(self, subject: Subject, seen: Look, plan: Plan, actions: Sequence[Action], *, seconds: float) -> None:
        _LOG.info(
            "cycle",
            extra={
                "fields": {
                    "namespace": self.key[0],
                    "service": self.key[1],
                    "mode": subject.owner.spec.mode,
                    "reason": str(plan.reason),
                    "load": seen.reading.reason or "known",
                    "gpusPlanned": plan.gpus,
                    "gpusAvailable": seen.available_gpus,
                    "instances": len(seen.observation.instances),
                    "powerExpectedWatts": round(plan.power_w),
                    "actions": [type(action).__name__ for action in actions if not isinstance(action, SetClocks)],
                    "seconds": round(seconds, 3),
                }
            },
        )


def _newest(body: Object, written: Object | None) -> Object:
    """Return the newer of what the watch shows and what our last write gave back.

    Resource versions of one resource are comparable integers (Kubernetes ≥ 1.35 says so, etcd always did).
    """
    if written is None or written["metadata"]["uid"] != body["metadata"]["uid"]:
        return body
    newer = int(written["metadata"]["resourceVersion"]) > int(body["metadata"]["resourceVersion"])
    return written if newer else body


def _status(body: Object) -> InferenceServiceStatus:
    try:
        return InferenceServiceStatus.model_validate(body.get("status") or {})
    except ValidationError as error:
        _LOG.warning("the status of %s is not readable and is made anew: %s", body["metadata"]["name"], error)
        return InferenceServiceStatus()


def _plan_in_force(subject: Subject, status: InferenceServiceStatus) -> Plan | None:
    whole = status.advice if subject.owner.spec.mode == "Advise" else status.plan
    if whole is None:
        return None
    try:
        return decode(whole)
    except InvalidInputError as error:
        _LOG.warning("%s/%s: %s", *subject.key, error)
        return None


def _news(before: Plan | None, after: Plan) -> bool:
    """Tell whether a plan says something new: other instances, or another reason; other clocks are no news."""
    if before is None:
        return True
    shape = [(pool.name, group.tensor_parallel, group.instances) for pool in before.pools for group in pool.groups]
    return before.reason != after.reason or shape != [
        (pool.name, group.tensor_parallel, group.instances) for pool in after.pools for group in pool.groups
    ]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
