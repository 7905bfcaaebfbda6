"""What service accounts may do (from the chart's objects) and what they did (from the API server's audit log)."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamollm.api import names

ROUTER = "router"
"""Stands for the service accounts of all routers, which the operator makes."""


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource for one part; ``namespace`` is * in all, ``name`` is * for all."""

    part: str
    group: str
    resource: str
    verb: str
    namespace: str = "*"
    name: str = "*"

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.part}: {self.verb} {resource} {self.namespace}/{self.name}"

    def covers(self, other: "Right") -> bool:
        """Return whether a request is one that this right allows."""
        mine = (self.part, self.group, self.resource, self.verb)
        return (
            mine == (other.part, other.group, other.resource, other.verb)
            and self.namespace in ("*", other.namespace)
            and self.name in ("*", other.name)
        )


def granted(objects: Iterable[dict[str, Any]]) -> Iterator[Right]:
    """Yield every right that the chart's roles give, to the parts that they are bound to."""
    bodies = list(objects)
    roles = {(body["kind"], body["metadata"]["name"]): body for body in bodies if "rules" in body}
    for body in bodies:
        if "roleRef" not in body:
            continue
        role = roles[body["roleRef"]["kind"], body["roleRef"]["name"]]
        namespace = body["metadata"]["namespace"] if body["kind"] == "RoleBinding" else "*"
        for subject in body["subjects"]:
            yield from _rights(subject["name"].removeprefix("dynamollm-"), role, namespace)
    yield from _rights(ROUTER, roles["ClusterRole", names.ROUTER_CLUSTER_ROLE], "*")


def _rights(part: str, role: dict[str, Any], namespace: str) -> Iterator[Right]:
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames", ["*"]):
                        yield Right(part, group, resource, verb, namespace, name)


def used(log: Path) -> tuple[set[Right], list[str]]:
    """Return every right that our service accounts used, and their requests that were refused for want of one."""
    rights, refused = set(), []
    for line in log.read_text().splitlines():
        event = json.loads(line)
        part, where = _part(event["user"]["username"]), event.get("objectRef")
        if part is None or where is None:  # /healthz and the like
            continue
        if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
            refused.append(f"{part}: {event['verb']} {event['requestURI']}")
            continue
        resource = where["resource"] + (f"/{where['subresource']}" if "subresource" in where else "")
        one = Right(
            part, where.get("apiGroup", ""), resource, event["verb"], where.get("namespace", ""), where.get("name", "")
        )
        rights.add(one)
        code = event.get("responseStatus", {}).get("code")
        if (one.verb, code) == ("patch", 201):
            # Server-side apply of what was not there: needs the right to create, and no request says so.
            rights.add(Right(part, one.group, one.resource, "create", one.namespace, one.name))
        if one.resource == "rolebindings" and code == 201:
            # To bind a role whose rights one does not have oneself takes the right to bind it.
            rights.add(Right(part, one.group, "clusterroles", "bind", "", names.ROUTER_CLUSTER_ROLE))
    return rights, refused


def _part(user: str) -> str | None:
    kind, _, account = user.rpartition(":")
    if kind == f"system:serviceaccount:{names.SYSTEM_NAMESPACE}":
        return account.removeprefix("dynamollm-") if account.startswith("dynamollm-") else None
    return ROUTER if kind.startswith("system:serviceaccount:") and account.endswith("-router") else None
