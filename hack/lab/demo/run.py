"""The demo from nothing to the closing table: cluster, installation, service, replay, screen, summary."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.live import Live

from dynamollm.api import names
from dynamollm.core.records import Service
from lab.cluster import LocalCluster, LocalClusterOptions
from lab.demo.api import Api
from lab.demo.children import DemoError, Replay, SinglePool, child
from lab.demo.manifests import document, read_service
from lab.demo.options import REPOSITORY, Options
from lab.demo.summary import Summary, Tally
from lab.demo.view import Moment, line, screen
from lab.demo.world import World
from lab.install import install

T = TypeVar("T")

PROFILE: Final = REPOSITORY / "manifests/profiles/h100-llama2-70b-vllm2023.yaml"
NAMESPACE: Final = REPOSITORY / "manifests/samples/namespace.yaml"
SERVICE: Final = REPOSITORY / "manifests/samples/demo.yaml"
READY_S: Final = 180.0
"""Wall seconds that the service may take from `kubectl apply` to Ready."""
FRAME_S: Final = 0.5
LINE_S: Final = 10.0
"""Wall seconds between two lines where there is no terminal."""
METER_S: Final = 3.0
"""Wall seconds for the last joules to pass agent and Prometheus."""
IDLE_W: Final = 75.0
"""A bare H100 at idle (FACTS: one reading of 74.4 W)."""


def run(options: Options, console: Console) -> Summary:
    """Show everything and return what came of it."""
    began, anchor_s = time.monotonic(), time.time()
    say = _teller(console)
    with ExitStack() as stack:
        cluster = stack.enter_context(
            LocalCluster.start(LocalClusterOptions(name=options.name, time_scale=options.speed, time_anchor_s=anchor_s))
        )
        say("control plane, 12 nodes of 8 H100 and Prometheus are up")
        install(cluster, prometheus_url=cluster.prometheus_url, time_scale=options.speed, time_anchor=anchor_s)
        say("operator and agents are installed")
        for manifest in (PROFILE, NAMESPACE, SERVICE):
            cluster.kubectl("apply", "-f", str(manifest))
        service = read_service(SERVICE)
        say(f"kubectl apply: InferenceService {service.namespace}/{service.name} and its profile")
        api = stack.enter_context(Api(cluster.kubeconfig))
        _wait(lambda: _ready(api, service), lambda: _not_ready(api, service))
        router = _wait(lambda: _router_url(api, service), lambda: "no router pod is Ready")
        world = stack.enter_context(World(api=api, prometheus_url=cluster.prometheus_url, service=service))
        _wait(lambda: world.look.energy_j, lambda: "Prometheus has no joules of the service yet")
        say(f"the service is Ready, its router answers at {router}")
        return _show(options, console, service, world, router=router, began=began)


def _show(options: Options, console: Console, service: Service, world: World, *, router: str, began: float) -> Summary:
    model = document(SERVICE)["spec"]["model"]["name"]
    trace = ["--rate", str(options.rate), "--start", str(options.start_s), "--duration", str(options.duration_s)]
    trace += ["--trace", str(options.trace)] if options.trace else []
    with (
        child("lab.demo.single_pool", *trace, "--profile", str(PROFILE), "--service", str(SERVICE), nice=15) as other,
        child("lab.demo.replay", "--url", router, "--model", model, "--scale", str(options.speed), *trace) as ours,
    ):
        replay = Replay(ours, Tally(slo=service.slo, boundaries=service.boundaries))
        single_pool = SinglePool(other)
        show = Show(options.speed, world, replay, single_pool)
        _draw(console, show)
        replay.finish()
        simulated_s = show.simulated_s
        time.sleep(METER_S)  # the meter is polled: nothing tells that the last joules have arrived
        world.stop()
        last, result = show.moment(), single_pool.result()
    energy_wh = last.energy_wh or 0.0
    in_status = last.look.service.get("status", {}).get("slo", {}).get("attainmentBasisPoints")
    return Summary(
        tally=replay.tally,
        energy_wh=energy_wh,
        energy_wh_released_idle=energy_wh + IDLE_W * max(0.0, result["gpus"] * simulated_s - show.held_gpu_s) / 3600,
        energy_wh_single_pool=result["energy_wh"],
        single_pool_attainment=result["slo_attainment"],
        scalings=world.changes.scalings,
        reshardings=world.changes.reshardings,
        clock_changes=round(last.clock_changes),
        seconds=time.monotonic() - began,
        simulated_seconds=simulated_s,
        attainment_in_status=None if in_status is None else in_status / 10_000,
    )


class Show:
    """The replay as it goes on; energies count from its first moment."""

    def __init__(self, scale: float, world: World, replay: Replay, single_pool: SinglePool) -> None:
        self.replay = replay
        self._scale, self._world, self._single_pool = scale, world, single_pool
        self._started = time.monotonic()
        self._energy_j = world.look.energy_j or 0.0
        self._clock_changes = world.look.clock_changes or 0.0
        self._held_gpu_s = world.held_gpu_s

    @property
    def simulated_s(self) -> float:
        """Simulated seconds since the replay began."""
        return (time.monotonic() - self._started) * self._scale

    @property
    def held_gpu_s(self) -> float:
        """GPUs that the service held, integrated over simulated seconds of the replay."""
        return (self._world.held_gpu_s - self._held_gpu_s) * self._scale

    def moment(self) -> Moment:
        """Return what there is to draw now."""
        now_s, look = self.simulated_s, self._world.look
        return Moment(
            simulated_s=now_s,
            duration_s=self._single_pool.duration_s,
            scale=self._scale,
            look=look,
            changes=self._world.changes,
            clock_changes=(look.clock_changes or 0.0) - self._clock_changes,
            tally=self.replay.tally,
            rate_per_s=self.replay.rate_per_s(now_s),
            energy_wh=None if look.energy_j is None else (look.energy_j - self._energy_j) / 3600,
            single_pool_wh=self._single_pool.energy_wh(now_s),
        )


def _draw(console: Console, show: Show) -> None:
    if not console.is_terminal:
        last = 0.0
        while show.replay.running:
            if time.monotonic() - last >= LINE_S:
                last = time.monotonic()
                console.print(line(show.moment()), soft_wrap=True)
            time.sleep(FRAME_S)
        return
    with Live(screen(show.moment()), console=console, auto_refresh=False, screen=False) as live:
        while show.replay.running:
            live.update(screen(show.moment()), refresh=True)
            time.sleep(FRAME_S)


def _teller(console: Console) -> Callable[[str], None]:
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {text}")

    return say


def _wait(look: Callable[[], T | None], why: Callable[[], str], timeout_s: float = READY_S) -> T:
    deadline = time.monotonic() + timeout_s
    while (value := look()) is None or value is False:
        if time.monotonic() > deadline:
            raise DemoError(f"after {timeout_s:.0f} s {why()}")
        time.sleep(FRAME_S)
    return value


def _condition(api: Api, service: Service, kind: str) -> dict[str, Any]:
    path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{service.namespace}/{names.SERVICES}/{service.name}"
    conditions = api.get(path).get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def _ready(api: Api, service: Service) -> bool:
    return bool(_condition(api, service, "Ready").get("status") == "True")


def _not_ready(api: Api, service: Service) -> str:
    condition = _condition(api, service, "Ready")
    return (
        f"{service.namespace}/{service.name} is not Ready: {condition.get('reason', 'the operator has not said anything')}"
        f" {condition.get('message', '')}"
    )


def _router_url(api: Api, service: Service) -> str | None:
    selector = f"{names.LABEL_SERVICE}={service.name},{names.LABEL_COMPONENT}=router"
    for pod in api.items(f"/api/v1/namespaces/{service.namespace}/pods", selector):
        status = pod["status"]
        if any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", [])):
            return f"http://{status['podIP']}:{names.ROUTER_PORT}"
    return None
