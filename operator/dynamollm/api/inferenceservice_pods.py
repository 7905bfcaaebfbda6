"""What the engine pods of an InferenceService have besides what the operator sets: user, volumes, where they may run."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from dynamollm.api.common import Rule, Spec, list_map

Quantity = Annotated[
    str, Field(min_length=1, max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
]
ObjectName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
VolumeName = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
MountPath = Annotated[str, Field(max_length=253, pattern=r"^(/\.?[-A-Za-z0-9_@+][-A-Za-z0-9_.@+]*)+$")]
"""Absolute, in one spelling: no `.`, `..` or empty part, no slash at the end. Paths can be compared as texts."""
GroupId = Annotated[int | None, Field(ge=0, le=2**31 - 1)]

OPERATORS_VOLUMES: Final = ("options", "profile", "shm")
"""Names of the volumes that the operator gives engine pods."""
TAKEN_PATHS: Final = ("/dev", "/etc/dynamollm", "/proc", "/sys")
"""Where the operator (/dev/shm, /etc/dynamollm/…) and the container runtime mount things of their own."""
_IN_TAKEN_PATH: Final = (
    f"{list(TAKEN_PATHS)}.exists(path, self.mountPath == path || self.mountPath.startsWith(path + '/')"
    " || path.startsWith(self.mountPath + '/'))"
)
_IS_ALONE: Final = "self.volumes.exists_one(other, other.mountPath == one.mountPath)"


class Toleration(Spec):
    """A taint that engine pods tolerate, as in a pod."""

    key: Annotated[str | None, Field(max_length=317)] = None
    """Key of the taint; absent with operator Exists: every key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: Annotated[str | None, Field(max_length=63)] = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; absent: every effect."""
    toleration_seconds: Annotated[int | None, Field(ge=0, le=86_400)] = None
    """How long NoExecute is tolerated, s; absent: for ever."""


class PodResources(Spec):
    """CPU and memory of the engine's container; the operator adds the GPUs."""

    requests: Annotated[dict[str, Quantity], Field(default_factory=dict, max_length=16)]
    """Requests by resource name, quantities as strings ("8", "64Gi")."""
    limits: Annotated[dict[str, Quantity], Field(default_factory=dict, max_length=16)]
    """Limits by resource name, quantities as strings."""


class PullSecret(Spec):
    """A Secret with the login of a registry."""

    name: ObjectName
    """Name of the Secret, in the service's namespace."""


# ------------------------------------------------------------------ volumes
class ClaimSource(Spec):
    """A PersistentVolumeClaim."""

    claim_name: ObjectName
    """Name of the claim, in the service's namespace. Instances run on several nodes: its access mode must be ReadWriteMany or ReadOnlyMany."""


class ConfigMapSource(Spec):
    """A ConfigMap: each key is a file."""

    name: ObjectName
    """Name of the ConfigMap, in the service's namespace."""


class Volume(Spec):
    """Something of the service's namespace, mounted into the engine's container."""

    name: VolumeName
    """Name of the volume in the pod."""
    mount_path: MountPath
    """Where it is mounted: an absolute path that no other volume has, and outside /dev, /proc, /sys and /etc/dynamollm."""
    read_only: bool = True
    """Whether the engine can only read it; false for a claim that it downloads weights or writes caches to."""
    persistent_volume_claim: ClaimSource | None = None
    """A claim, for weights and caches."""
    config_map: ConfigMapSource | None = None
    """A ConfigMap, for chat templates and the like."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="has(self.persistentVolumeClaim) != has(self.configMap)",
            message="engine.podTemplate.volumes needs exactly one source each: persistentVolumeClaim or configMap",
            detail="engine.podTemplate.volumes %s needs exactly one source: persistentVolumeClaim or configMap; keys of a Secret go into engine.env",
            values=("self.name",),
            holds=lambda self: (self.persistent_volume_claim is None) != (self.config_map is None),
            found=lambda self: (self.name,),
        ),
        Rule(
            rule="!has(self.configMap) || self.readOnly",
            message="engine.podTemplate.volumes has a ConfigMap with readOnly false, and ConfigMaps cannot be written",
            detail="engine.podTemplate.volumes %s is a ConfigMap, which cannot be written: leave readOnly true",
            values=("self.name",),
            field_path=".readOnly",
            holds=lambda self: self.config_map is None or self.read_only,
            found=lambda self: (self.name,),
        ),
        Rule(
            rule=f"!(self.name in {list(OPERATORS_VOLUMES)})",
            message="engine.podTemplate.volumes has a name that a volume of the operator has: choose another",
            detail="engine.podTemplate.volumes %s has the name of a volume of the operator: choose another",
            values=("self.name",),
            field_path=".name",
            holds=lambda self: self.name not in OPERATORS_VOLUMES,
            found=lambda self: (self.name,),
        ),
        Rule(
            rule=f"!{_IN_TAKEN_PATH}",
            message="engine.podTemplate.volumes has a mountPath that the operator or the container runtime needs",
            detail="engine.podTemplate.volumes %s has mountPath %s, which the operator or the container runtime needs: choose another",
            values=("self.name", "self.mountPath"),
            field_path=".mountPath",
            holds=lambda self: not any(_meet(self.mount_path, path) for path in TAKEN_PATHS),
            found=lambda self: (self.name, self.mount_path),
        ),
    )


def _meet(one: str, other: str) -> bool:
    """Return whether one path is the other, or lies below it."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


# ------------------------------------------------------------------ all of it
class PodTemplate(Spec):
    """What engine pods have besides what the operator sets."""

    run_as_user: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None
    """ID of the user that the engine runs as; absent: its image's own. With it pods are admitted where the Pod Security Standard `restricted` is enforced. The image must be made for it, or HOME in engine.env name a folder that it can write. Simulated has its own image's user."""
    run_as_group: GroupId = None
    """ID of that user's group; absent: what the image says of the user, else 0."""
    fs_group: GroupId = None
    """ID of a group that the engine is in besides; volumes with readOnly false are made writable for it, where their storage can."""
    image_pull_secrets: Annotated[tuple[PullSecret, ...], Field(max_length=8, json_schema_extra=list_map("name"))] = ()
    """Secrets to pull the engine's image with."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods. Plans count on no GPU that it would take from other pods."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that they tolerate."""
    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]], Field(default_factory=dict, max_length=16)
    ]
    """Node labels that they need, besides the GPU's product."""
    resources: PodResources = PodResources()
    """CPU and memory."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=8, json_schema_extra=list_map("name"))] = ()
    """Claims and ConfigMaps to mount. No Secrets: their keys go into engine.env."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.runAsGroup) || has(self.runAsUser)",
            message="engine.podTemplate.runAsGroup is given without runAsUser: set both, or neither",
            detail="engine.podTemplate.runAsGroup %d is given without runAsUser: set both, or neither",
            values=("self.runAsGroup",),
            field_path=".runAsGroup",
            holds=lambda self: self.run_as_group is None or self.run_as_user is not None,
            found=lambda self: (self.run_as_group,),
        ),
        Rule(
            rule=f"self.volumes.all(one, {_IS_ALONE})",
            message="engine.podTemplate.volumes has a mountPath twice: give each volume its own",
            detail="engine.podTemplate.volumes %s have one mountPath: give each volume its own",
            values=(f"self.volumes.filter(one, !{_IS_ALONE}).map(one, one.name)",),
            field_path=".volumes",
            holds=lambda self: not _sharing_a_path(self.volumes),
            found=lambda self: (_sharing_a_path(self.volumes),),
        ),
    )


def _sharing_a_path(volumes: tuple[Volume, ...]) -> list[str]:
    """Return the names of volumes that are mounted where another one is."""
    paths = [volume.mount_path for volume in volumes]
    return [volume.name for volume in volumes if paths.count(volume.mount_path) > 1]
