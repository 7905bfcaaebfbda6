from click.testing import CliRunner, Result

from component.nvml.standin_node import Node
from lab import nvml as standin
from lab.nvml import Fault


def run(*arguments: str) -> Result:
    return CliRunner().invoke(standin.main, arguments)


def test_a_node_is_arranged_from_the_shell(node: Node) -> None:
    file = ["--file", str(node.file)]
    created = run("create", *file, "--node", "gpu-node-07", "--gpus", "2", "--time-scale", "8")
    assert created.stdout.split() == node.uuids[:2]
    assert standin.read(state_file=node.file).time_scale == 8
    assert run("fault", *file, "--gpu", node.uuids[0], "thermal", "--mhz", "900").exit_code == 0
    assert node.read().faults == {Fault.THERMAL}
    shown = run("show", *file).stdout.splitlines()
    assert len(shown) == 2
    assert shown[0].startswith(f" 0 {node.uuids[0]}   345 MHz    75.0 W")
    assert shown[0].endswith("unlocked thermal")
    assert run("fault", *file, "--gpu", node.uuids[0], "thermal", "--off").exit_code == 0
    assert node.read().faults == frozenset()
    assert run("reenumerate", *file).exit_code == 0
    assert node.read().index == 1
    assert run("reload-driver", *file).exit_code == 0
    assert standin.read(state_file=node.file).driver_loads == 2
    assert run("release", *file, *node.uuids[:2]).exit_code == 0


def test_an_unknown_fault_is_refused_with_the_known_ones(node: Node) -> None:
    answer = run("fault", "--file", str(node.file), "--gpu", node.uuids[0], "melted")
    assert answer.exit_code == 2
    assert all(str(fault) in answer.output for fault in Fault)
