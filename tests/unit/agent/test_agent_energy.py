import pytest

from dynamollm.adapters.nvml import GpuReading
from dynamollm.agent.energy import Consumer, EnergyAccount

CHAT = Consumer(namespace="llm", service="chat", pool="ll", tensor_parallel=2)
CODE = Consumer(namespace="llm", service="code", pool="ll", tensor_parallel=2)


def at(**joules: float) -> dict[str, GpuReading]:
    return {
        uuid: GpuReading(uuid=uuid, sm_clock_mhz=1980, power_w=1, energy_j=energy_j, mig=False, limits=frozenset())
        for uuid, energy_j in joules.items()
    }


@pytest.mark.parametrize(
    ("steps", "joules"),
    [
        # what was used before the pod came is not the service's
        ([(at(a=1000), {"a": CHAT})], {CHAT: 0.0}),
        ([(at(a=1000), {"a": CHAT}), (at(a=1100), {"a": CHAT})], {CHAT: 100.0}),
        ([(at(a=1000, b=50), {"a": CHAT, "b": CHAT}), (at(a=1100, b=60), {"a": CHAT, "b": CHAT})], {CHAT: 110.0}),
        # the stretch in which a GPU changes hands goes to the one who held it at the start
        ([(at(a=0), {"a": CHAT}), (at(a=10), {"a": CODE}), (at(a=30), {})], {CHAT: 10.0, CODE: 20.0}),
        ([(at(a=0), {"a": CHAT}), (at(a=10), {}), (at(a=999), {"a": CHAT}), (at(a=1000), {})], {CHAT: 11.0}),
        # a GPU that did not answer for a while lost nothing
        ([(at(a=0), {"a": CHAT}), (at(), {}), (at(a=50), {"a": CHAT})], {CHAT: 50.0}),
        # the driver was loaded anew: 7 J since
        ([(at(a=500), {"a": CHAT}), (at(a=600), {"a": CHAT}), (at(a=7), {"a": CHAT})], {CHAT: 107.0}),
    ],
)
def test_joules_go_to_the_holder(steps: list, joules: dict[Consumer, float]) -> None:
    account = EnergyAccount()
    for readings, consumers in steps:
        account.add(readings=readings, consumers=consumers)
    assert account.joules == pytest.approx(joules)
