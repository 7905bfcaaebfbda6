"""The CEL rules over engine.podTemplate as cases."""

from typing import Any

from integration.crd_rule_case import Patch, RuleCase, spec

CLAIM: dict[str, Any] = {"persistentVolumeClaim": {"claimName": "weights"}}
CONFIG: dict[str, Any] = {"configMap": {"name": "templates"}}


def pods(**template: Any) -> Patch:
    return spec(engine={"podTemplate": template})


def volume(name: str = "weights", path: str = "/weights", **fields: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **(fields or CLAIM)}


POD_RULE_CASES: tuple[RuleCase, ...] = (
    RuleCase(
        kind="InferenceService",
        field="spec.engine",
        message="engine.podTemplate.runAsUser is given, and engine.type Simulated has the user of its own image: remove it",
        accepted=(
            pods(runAsUser=2000),
            spec(engine={"type": "Simulated", "podTemplate": {"fsGroup": 2000, "volumes": [volume()]}}),
        ),
        rejected=(
            (
                spec(engine={"type": "Simulated", "podTemplate": {"runAsUser": 2000}}),
                "engine.podTemplate.runAsUser is 2000, and engine.type Simulated has the user of its own image: remove it",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine.podTemplate",
        message="engine.podTemplate.runAsGroup is given without runAsUser: set both, or neither",
        accepted=(pods(runAsUser=2000, runAsGroup=0), pods(fsGroup=0)),
        rejected=(
            (pods(runAsGroup=0), "engine.podTemplate.runAsGroup 0 is given without runAsUser: set both, or neither"),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine.podTemplate",
        message="engine.podTemplate.volumes has a mountPath twice: give each volume its own",
        accepted=(
            pods(volumes=[volume(), volume("cache", "/weights/cache"), volume("more", "/weights2")]),
            pods(volumes=[]),
        ),
        rejected=(
            (
                pods(volumes=[volume(), volume("cache", "/cache"), volume("again", "/weights")]),
                'engine.podTemplate.volumes ["weights", "again"] have one mountPath: give each volume its own',
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine.podTemplate.volumes[]",
        message="engine.podTemplate.volumes needs exactly one source each: persistentVolumeClaim or configMap",
        accepted=(pods(volumes=[volume(**CLAIM), volume("templates", "/templates", **CONFIG)]),),
        rejected=(
            (
                pods(volumes=[{"name": "weights", "mountPath": "/weights"}]),
                "engine.podTemplate.volumes weights needs exactly one source: persistentVolumeClaim or configMap",
            ),
            (
                pods(volumes=[volume(**CLAIM, **CONFIG)]),
                "engine.podTemplate.volumes weights needs exactly one source: persistentVolumeClaim or configMap",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine.podTemplate.volumes[]",
        message="engine.podTemplate.volumes has a ConfigMap with readOnly false, and ConfigMaps cannot be written",
        accepted=(
            pods(volumes=[volume(readOnly=False, **CLAIM)]),
            pods(volumes=[volume(readOnly=True, **CONFIG)]),
        ),
        rejected=(
            (
                pods(volumes=[volume("templates", readOnly=False, **CONFIG)]),
                "engine.podTemplate.volumes templates is a ConfigMap, which cannot be written: leave readOnly true",
            ),
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine.podTemplate.volumes[]",
        message="engine.podTemplate.volumes has a name that a volume of the operator has: choose another",
        accepted=(pods(volumes=[volume("shm2")]),),
        rejected=tuple(
            (
                pods(volumes=[volume(name)]),
                f"engine.podTemplate.volumes {name} has the name of a volume of the operator: choose another",
            )
            for name in ("options", "profile", "shm")
        ),
    ),
    RuleCase(
        kind="InferenceService",
        field="spec.engine.podTemplate.volumes[]",
        message="engine.podTemplate.volumes has a mountPath that the operator or the container runtime needs",
        accepted=tuple(
            pods(volumes=[volume(path=path)]) for path in ("/devices", "/etc/nccl", "/system", "/root/.cache")
        ),
        rejected=tuple(
            (
                pods(volumes=[volume(path=path)]),
                f"engine.podTemplate.volumes weights has mountPath {path}, which the operator or the container runtime needs",
            )
            for path in ("/dev", "/dev/shm", "/etc", "/etc/dynamollm", "/etc/dynamollm/engine", "/proc/1", "/sys")
        ),
    ),
)
