"""Every stage for pods leaves those of our image to the pod runner; a stage forgotten would play them twice."""

import yaml

from lab.paths import HACK

OURS = "!self.spec.containers.exists(c, c.image.matches('^dynamollm/dynamollm([:@].*)?$'))"


def test_every_stage_of_a_pod_leaves_ours_alone() -> None:
    stages = [
        stage for file in sorted((HACK / "kwok").glob("*.yaml")) for stage in yaml.safe_load_all(file.read_text())
    ]
    pods = [stage for stage in stages if stage["spec"]["resourceRef"]["kind"] == "Pod"]
    assert {stage["metadata"]["name"] for stage in pods} == {"pod-ready", "pod-complete", "pod-delete"}
    for stage in pods:
        conditions = [one.get("cel", {}).get("expression") for one in stage["spec"]["selector"]["matchExpressions"]]
        assert OURS in conditions
    assert {stage["metadata"]["name"] for stage in stages} - {stage["metadata"]["name"] for stage in pods} == {
        "node-initialize",
        "node-heartbeat-with-lease",
    }
