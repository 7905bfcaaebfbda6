"""The real helm with the chart of this checkout: rendered without a cluster, or as a release on one."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import yaml

from dynamollm.api.names import SYSTEM_NAMESPACE
from lab.backend import Cluster
from lab.errors import LabError
from lab.paths import REPOSITORY

CHART: Final = REPOSITORY / "charts/dynamollm"
RELEASE: Final = "dynamollm"

Manifest = dict[str, Any]
_RELEASE: Final = (RELEASE, str(CHART), "--namespace", SYSTEM_NAMESPACE)
_WAIT: Final = ("--wait", "--timeout", "240s")
"""A machine that is busy with other tests takes a minute."""


@dataclass(frozen=True, slots=True)
class Helm:
    """One helm, for the cluster that its environment names; without one it only renders."""

    program: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def on(cls, cluster: Cluster) -> Self:
        """Return the helm for a cluster.

        Raises:
            LabError: there is no helm on PATH.
        """
        environment = cluster.environment()
        program = shutil.which("helm", path=environment.get("PATH"))
        if program is None:
            raise LabError("there is no helm on PATH: install it, or use the local cluster")
        return cls(Path(program), environment)

    def run(self, *args: str, values: Mapping[str, Any] | None = None) -> str:
        """Run helm and return what it printed; ``values`` are those that the user writes into a file.

        Raises:
            LabError: it failed; the message is helm's.
        """
        options = ["--values", "-"] if values is not None else []
        result = subprocess.run(
            [str(self.program), *args, *options],
            env=os.environ | self.environment,
            input=json.dumps(values) if values is not None else "",
            text=True,
            capture_output=True,
            check=False,
        )
        if result.returncode != 0:
            raise LabError(f"helm {' '.join(args)}: {result.stderr.strip() or f'exit code {result.returncode}'}")
        return result.stdout

    def render(self, values: Mapping[str, Any] | None = None, *args: str) -> str:
        """Return the text of what an install into the usual namespace would apply, hooks and tests included.

        Raises:
            LabError: helm refuses the values or the templates.
        """
        return self.run("template", *_RELEASE, *args, values=values)

    def template(self, values: Mapping[str, Any] | None = None, *args: str) -> list[Manifest]:
        """Return the objects that an install into the usual namespace would apply, hooks and tests included.

        Raises:
            LabError: helm refuses the values or the templates.
        """
        return [body for body in yaml.safe_load_all(self.render(values, *args)) if body]

    def install(self, values: Mapping[str, Any], *args: str) -> str:
        """Install or upgrade the release, wait until it is ready, and return what helm printed.

        Raises:
            LabError: helm refuses, or it is not ready in time.
        """
        return self.run("upgrade", "--install", *_RELEASE, *_WAIT, "--create-namespace", *args, values=values)

    def test(self) -> str:
        """Run the release's own check and return what helm printed.

        Raises:
            LabError: something does not work; what it is has the log of pod dynamollm-check.
        """
        return self.run("test", RELEASE, "--namespace", SYSTEM_NAMESPACE, "--timeout", "240s")

    def uninstall(self, *args: str) -> str:
        """Uninstall the release and return what helm printed.

        Raises:
            LabError: there is none, or its hook failed.
        """
        return self.run("uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE, *_WAIT, *args)


def key(body: Mapping[str, Any]) -> tuple[str, str]:
    """Return kind and name of an object: unique in what the chart makes."""
    return body["kind"], body["metadata"]["name"]
