"""The environment and the command line of a container, as the kubelet works them out."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, Final

_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_SUFFIXES: Final = {
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Decimal(1000) ** -power for power, suffix in enumerate(("m", "u", "n"), 1)},
}

Read = Callable[[str, str], Awaitable[dict[str, bytes] | None]]
"""(kind "configmaps" or "secrets", name) → its values, None where it is not there."""


class NotYetError(Exception):
    """Something that the container needs is not there yet; the message says what."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod runs, as far as the downward API tells."""

    pod_ip: str = ""
    host_ip: str = ""
    allocatable: Mapping[str, str] = field(default_factory=dict)
    """Of the node: what a container without limits may use."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace $(NAME) by its value; an unknown name stays, and $$ is a dollar."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return values.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


async def environment(pod: dict[str, Any], container: dict[str, Any], *, read: Read, place: Place) -> dict[str, str]:
    """Return the container's variables.

    Raises:
        NotYetError: a ConfigMap, a Secret or a key of one is missing and not optional.
    """
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for name, kind in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if name in source:
                found = await _read(read, kind, source[name])
                values |= {source.get("prefix", "") + key: _text(value) for key, value in found.items()}
    for variable in container.get("env", []):
        name = variable["name"]
        if "valueFrom" not in variable:
            values[name] = expand(variable.get("value", ""), values)
            continue
        value = await _value_from(pod, container, variable["valueFrom"], read=read, place=place)
        if value is not None:
            values[name] = value
    return values


async def _read(read: Read, kind: str, reference: dict[str, Any]) -> dict[str, bytes]:
    found = await read(kind, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise NotYetError(f'{kind[:-1]} "{reference["name"]}" not found')
    return found


async def _value_from(
    pod: dict[str, Any], container: dict[str, Any], source: dict[str, Any], *, read: Read, place: Place
) -> str | None:
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], place)
    if "resourceFieldRef" in source:
        return resource_value(pod, container["name"], source["resourceFieldRef"], place)
    for name, kind in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if name in source:
            reference = source[name]
            found = await _read(read, kind, reference)
            if reference["key"] in found:
                return _text(found[reference["key"]])
            if reference.get("optional"):
                return None
            raise NotYetError(f'{kind[:-1]} "{reference["name"]}" has no key "{reference["key"]}"')
    raise NotYetError(f"env source {sorted(source)} is not supported by the pod runner")


def _text(value: bytes) -> str:
    # Bytes that are no text reach the process unchanged: the environment is encoded the same way back.
    return value.decode(errors="surrogateescape")


def field_value(pod: dict[str, Any], path: str, place: Place) -> str:
    """Return what the downward API gives for a field path.

    Raises:
        NotYetError: the pod runner does not know the path.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": place.pod_ip,
        "status.podIPs": place.pod_ip,
        "status.hostIP": place.host_ip,
        "status.hostIPs": place.host_ip,
    }
    if path in simple:
        return str(simple[path])
    for kind in ("labels", "annotations"):
        values: dict[str, str] = metadata.get(kind, {})
        if path == f"metadata.{kind}":
            return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
        if path.startswith(f"metadata.{kind}['"):
            return values.get(path.removeprefix(f"metadata.{kind}['").removesuffix("']"), "")
    raise NotYetError(f"field {path} is not supported by the pod runner")


def resource_value(pod: dict[str, Any], container: str, reference: dict[str, Any], place: Place) -> str:
    """Return a limit or request of a container in whole divisors, rounded up.

    A container without a limit of CPU or memory gets what the node has, as from the kubelet.

    Raises:
        NotYetError: the pod has no such container, or a quantity cannot be read.
    """
    name = reference.get("containerName", container)
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    owner = next((one for one in containers if one["name"] == name), None)
    if owner is None:
        raise NotYetError(f'resource {reference["resource"]} of container "{name}": the pod has no such container')
    kind, _, resource = reference["resource"].partition(".")
    given = owner.get("resources", {}).get(kind, {}).get(resource)
    if given is None:
        given = place.allocatable.get(resource, "0") if kind == "limits" else "0"
    # The API server writes a divisor that was not given as 0.
    divisor = _quantity(reference.get("divisor", "1")) or Decimal(1)
    return str((_quantity(given) / divisor).to_integral_value(rounding=ROUND_CEILING))


def _quantity(text: str | int) -> Decimal:
    number, factor = str(text), Decimal(1)
    for suffix, value in _SUFFIXES.items():
        if number.endswith(suffix):
            number, factor = number.removesuffix(suffix), value
            break
    try:
        return Decimal(number) * factor
    except InvalidOperation:
        raise NotYetError(f"quantity {text!r} cannot be read") from None
