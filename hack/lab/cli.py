"""``hack/cluster``: a cluster to work with, from the command line."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from dynamollm.core.errors import DynamoLLMError
from lab import podlogs, record
from lab.backend import KUBECONFIG, Cluster, ExistingCluster, kind_of_cluster
from lab.cluster import LocalCluster, LocalClusterOptions, build, take_down
from lab.errors import LabError
from lab.paths import log_file, state_dir
from lab.processes import started_ticks, tail
from lab.progress import Progress
from lab.record import Phase, Record

_DEFAULTS: Final = LocalClusterOptions()
_FOLLOW_S: Final = 0.2
_name = click.option("--name", default=_DEFAULTS.name, show_default=True, help="which of the clusters side by side")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run a Kubernetes control plane with simulated GPU nodes as processes of yours.

    DYNAMOLLM_CLUSTER=kubeconfig: use the cluster that KUBECONFIG names instead.
    """


@cli.command("build")
def build_command() -> None:
    """Build or fetch what a cluster is made of (minutes, once)."""
    build(Progress())


@cli.command()
@_name
@click.option("--nodes", default=_DEFAULTS.nodes, show_default=True, help="simulated nodes")
@click.option("--gpus", default=_DEFAULTS.gpus_per_node, show_default=True, help="GPUs of a node")
@click.option("--time-scale", default=_DEFAULTS.time_scale, show_default=True, help="simulated seconds per second")
@click.option(
    "--scrape-interval", default=_DEFAULTS.scrape_interval_s, show_default=True, help="of Prometheus, seconds"
)
def up(*, name: str, nodes: int, gpus: int, time_scale: float, scrape_interval: float) -> None:
    """Start a cluster and leave it running."""
    if kind_of_cluster() == KUBECONFIG:
        click.echo(f"the cluster at {(existing := ExistingCluster()).kubeconfig} answers: {existing.version}")
        return
    options = LocalClusterOptions(
        name=name,
        nodes=nodes,
        gpus_per_node=gpus,
        time_scale=time_scale,
        # Wall and simulated time meet now.
        time_anchor_s=time.time() if time_scale != 1 else 0.0,
        scrape_interval_s=scrape_interval,
    )
    there = Record.read(name)
    if there is not None and there.alive and there.phase is Phase.READY:
        click.echo(f"cluster {name!r} is up already; hack/cluster status shows it", err=True)
        return
    LocalCluster.start(options).keep()
    option = "" if name == _DEFAULTS.name else f" --name {name}"
    click.echo(f'now:  eval "$(hack/cluster env{option})"', err=True)


@cli.command()
@_name
def down(*, name: str) -> None:
    """Stop a cluster and remove what it left; a crashed one too."""
    if kind_of_cluster() == KUBECONFIG:
        raise LabError("the cluster that KUBECONFIG names is yours: nothing here takes it down")
    if not take_down(name):
        click.echo(f"cluster {name!r} is not up", err=True)


@cli.command()
@click.option("--name", default=None, help="one cluster; else all of yours")
def status(*, name: str | None) -> None:
    """Show clusters and their processes; exit code 1 where one is not up."""
    if kind_of_cluster() == KUBECONFIG:
        click.echo(f"the cluster at {(existing := ExistingCluster()).kubeconfig} answers: {existing.version}")
        return
    console, healthy = Console(highlight=False), True
    for one in [name] if name else record.names():
        found = Record.read(one)
        if found is None:
            raise LabError(f"cluster {one!r} is not up")
        healthy = _show(found, console) and healthy
    if not name and not record.names():
        console.print("no cluster is up")
    if not healthy:
        sys.exit(1)


def _show(found: Record, console: Console) -> bool:
    name, up = found.options.name, found.alive and found.phase is not Phase.FAILED
    phase = found.phase if up or found.phase is Phase.FAILED else "killed"
    nodes, gpus = found.options.nodes, found.options.gpus_per_node
    console.print(
        f"cluster {name}: {phase}, {nodes} nodes of {gpus} GPUs, time × {found.options.time_scale:g}", soft_wrap=True
    )
    if found.reason:
        console.print(found.reason, markup=False, soft_wrap=True)
    if not up:
        for process in found.processes:
            if found.reason.startswith(f"{process} "):
                console.print(*tail(log_file(state_dir(name), process)), sep="\n", markup=False, soft_wrap=True)
        return False
    table = Table("process", "pid", "MB", "CPU s", box=None)
    for process, identity in found.processes.items():
        runs = started_ticks(identity.pid) == identity.started
        memory, cpu = _usage(identity.pid) if runs else ("", "")
        table.add_row(process, str(identity.pid) if runs else "ended", memory, cpu)
    console.print(table)
    console.print(f"API server {found.api_url}, Prometheus {found.prometheus_url}", soft_wrap=True)
    console.print(f"logs in {state_dir(name) / 'logs'}", soft_wrap=True)
    return found.phase is Phase.READY


def _usage(pid: int) -> tuple[str, str]:
    """Return resident MB and CPU seconds of a process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    ticks = int(times[11]) + int(times[12])
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.0f}", f"{ticks / os.sysconf('SC_CLK_TCK'):.1f}"


@cli.command()
@_name
def env(*, name: str) -> None:
    """Print what a shell needs: eval "$(hack/cluster env)"."""
    for variable, value in _cluster(name).environment().items():
        click.echo(f"export {variable}={shlex.quote(value)}")


@cli.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_name
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(*, name: str, command: tuple[str, ...]) -> None:
    """Run a command that talks to the cluster: hack/cluster exec -- kubectl get nodes."""
    environment = os.environ | _cluster(name).environment()
    try:
        os.execvpe(command[0], list(command), environment)  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise LabError(f"cannot run {command[0]}: {error.strerror}") from error


@cli.command()
@_name
@click.argument("pod")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-f", "--follow", is_flag=True, help="go on until Ctrl-C")
def logs(*, name: str, pod: str, namespace: str, follow: bool) -> None:
    """Print what a pod has printed."""
    cluster = _cluster(name)
    if isinstance(cluster, ExistingCluster):
        options = ["--follow"] if follow else []
        os.execvp("kubectl", ["kubectl", "logs", "--all-containers", "--namespace", namespace, *options, pod])  # noqa: S606
    state = state_dir(name)
    seen: dict[Path, int] = dict.fromkeys(podlogs.files(state, namespace, pod), 0)
    while True:
        for file, offset in seen.items():
            with file.open("rb") as text:
                text.seek(offset)
                click.echo(text.read(), nl=False)
                seen[file] = text.tell()
        if not follow:
            return
        time.sleep(_FOLLOW_S)
        for file in podlogs.files(state, namespace, pod):
            seen.setdefault(file, 0)


def _cluster(name: str) -> Cluster:
    return ExistingCluster() if kind_of_cluster() == KUBECONFIG else LocalCluster.running(name)


def main() -> None:
    """Run the command; an error of ours is one line on stderr and exit code 2."""
    try:
        # Not standalone: click would make Ctrl-C an "Aborted!" with exit code 1.
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DynamoLLMError as error:
        click.echo(f"hack/cluster: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("hack/cluster: interrupted, nothing was left running", err=True)
        sys.exit(130)
