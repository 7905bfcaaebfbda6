"""``dynamollm plan``: a manifest and a load in, the plan and its reason out; no cluster needed."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from dynamollm.adapters.manifests import read_documents
from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.cli.names import Name
from dynamollm.cli.plan_view import Answer, as_json, print_tables
from dynamollm.cli.read_documents import (
    find_policy,
    find_profile,
    find_service,
    find_service_spec,
)
from dynamollm.cli.read_inventory import read_inventory
from dynamollm.cli.read_load import read_load
from dynamollm.cli.read_plan import read_plan
from dynamollm.core.fit import fitting_profile
from dynamollm.core.prices import missing_price, priced
from dynamollm.core.runnerup import runner_up
from dynamollm.core.service import service_from_spec
from dynamollm.core.whatif import check_lengths, expected_latency, nodes_for, plan_for_load, without_instances

_FILE = click.Path(path_type=Path)


@click.command("plan")
@click.option(
    "-f",
    "--file",
    "files",
    type=_FILE,
    multiple=True,
    required=True,
    help="Manifests: an InferenceService, its PerformanceProfile, a ClusterPolicy for prices. Files with one or more documents, or folders; may be repeated.",
)
@click.option("--load", "load_file", type=_FILE, required=True, help="Class → rate_per_s, input_tokens, output_tokens.")
@click.option(
    "--inventory",
    type=_FILE,
    help="Nodes, as `kubectl get nodes -o yaml` prints them (with pods: what those hold is not free), or nodes: [{gpus: 8, count: 12}] [default: empty nodes for limits.maxGPUs].",
)
@click.option(
    "--current",
    type=_FILE,
    help="The plan in force: what this command printed as JSON, or status.plan. The answer is as after scaleDownStabilizationSeconds.",
)
@click.option("--service", "name", help="Which InferenceService, where -f has several.")
@click.option("--at", type=click.DateTime(), help="Time of the prices, UTC [default: now].")
@click.option("--output", type=Name(["table", "json"]), default="table", show_default=True, help="What to print.")
def command(
    *,
    files: tuple[Path, ...],
    load_file: Path,
    inventory: Path | None,
    current: Path | None,
    name: str | None,
    at: datetime | None,
    output: str,
) -> None:
    """Plan a service for a load: pools, TP degrees, instances, clocks, and what comes of it.

    The operator would decide the same: it calls the same code.
    """
    documents = read_documents(files)
    manifest = find_service(documents, name=name)
    spec = find_service_spec(manifest)
    profile = fitting_profile(spec, find_profile(documents, name=spec.profile_ref.name, asked_by=manifest))
    policy = find_policy(documents) or ClusterPolicySpec()
    now_s = time.time() if at is None else at.replace(tzinfo=UTC).timestamp()
    service = service_from_spec(manifest.namespace, manifest.name, spec)
    missing = missing_price(service, policy)
    service = priced(service, policy, now_s=now_s)
    load = read_load(load_file)
    check_lengths(load, service.boundaries)
    before = None if current is None else read_plan(current, profile)
    nodes, pods_counted = (nodes_for(service), False) if inventory is None else read_inventory(inventory, spec)
    if before is not None and not pods_counted:
        nodes = without_instances(nodes, before)
    plan = plan_for_load(service, profile, load, nodes=nodes, now_s=now_s, current=before)
    answer = Answer(
        service=service,
        profile=profile,
        plan=plan,
        before=before,
        latency=expected_latency(service, profile, plan),
        runner_up=runner_up(service, profile, plan, changes=before is not None),
        policy=policy,
        missing=missing,
    )
    if output == "json":
        click.echo(json.dumps(as_json(answer), indent=2, ensure_ascii=False))
    else:
        print_tables(answer)
