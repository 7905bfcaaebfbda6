"""What SinglePool would have used on the replay's requests, as one JSON document on standard output.

A process of its own with a low priority: it computes for some seconds while the replay runs.
"""

import argparse
import sys
from pathlib import Path

import orjson

from dynamollm.core.errors import DynamoLLMError
from dynamollm.simulator.single_pool import run_single_pool
from lab.demo.manifests import read_profile, read_service
from lab.demo.replay import add_trace_options, requests_of


def main() -> None:
    """Run the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(prog="lab.demo.single_pool", description=__doc__)
    parser.add_argument("--profile", type=Path, required=True, help="manifest of the PerformanceProfile")
    parser.add_argument("--service", type=Path, required=True, help="manifest of the InferenceService")
    add_trace_options(parser)
    arguments = parser.parse_args()
    try:
        result = run_single_pool(
            requests_of(arguments), service=read_service(arguments.service), profile=read_profile(arguments.profile)
        )
    except DynamoLLMError as error:
        sys.exit(f"single_pool: {error}")
    document = {
        "instances": result.instances,
        "gpus": result.gpus,
        "energy_wh": result.fleet.energy_j / 3600,
        "energy_wh_by_step": (result.fleet.curve_j / 3600).tolist(),
        "step_s": result.fleet.step_s,
        "duration_s": result.fleet.until_s,
        "slo_attainment": result.attainment,
    }
    sys.stdout.buffer.write(orjson.dumps(document))


if __name__ == "__main__":
    main()
