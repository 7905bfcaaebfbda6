"""The wheel, installed as a user installs it: in an environment of its own, run from a folder that is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.paths import REPOSITORY

# The engine model is compiled anew for the new place: half a minute, and many on a busy machine.
pytestmark = pytest.mark.timeout(1800)

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run the command of an environment that has the wheel, and its dependencies from the tree's."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([str(python), "-c", where], check=True, capture_output=True, text=True, timeout=60)
    # A folder on the path only: what makes the tree editable there has no effect here.
    (Path(own.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NUMBA"))}
    environment["DYNAMOLLM_CACHE"] = str(folder / "cache")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(folder / "venv/bin/dynamollm"), *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )

    return run


def test_the_wheel_has_the_profiles_as_they_are_in_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for profile in (REPOSITORY / "manifests/profiles").glob("*.yaml"):
            assert archive.read(f"dynamollm/profiles/{profile.name}") == profile.read_bytes()


def test_the_first_run_says_that_it_compiles(installed: Command, tmp_path: Path) -> None:
    trace = tmp_path / "own.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(f"{k},100,20\n" for k in range(120)))
    asked = ("simulate", "--trace", str(trace), "--policy", "SinglePool", "--servers", "1", "--output", "json")
    runs = [installed(*asked) for _ in range(2)]
    assert [one.returncode for one in runs] == [0, 0], runs[0].stderr
    assert [one.stderr for one in runs] == ["compiling the simulator, once: about half a minute\n", ""]
    assert json.loads(runs[0].stdout)["results"]


@pytest.mark.parametrize("profile", ["modern", "paper"])
def test_simulate_finds_the_profiles(installed: Command, tmp_path: Path, profile: str) -> None:
    trace = tmp_path / "own.csv"
    # Longer than an instance takes to start: before, nobody serves.
    rows = "".join(f"{k},{200 + 7 * k},{20 + k}\n" for k in range(300))
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    arguments = ("--trace", str(trace), "--policy", "SinglePool", "--servers", "1", "--output", "json")
    done = installed("simulate", *arguments, "--profile", profile)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["profile"], document["results"][0]["requests"]) == (profile, 300)
    assert document["results"][0]["failed"] == 0


def test_plan_finds_the_profile_that_a_service_names(installed: Command, tmp_path: Path) -> None:
    manifest = tmp_path / "service.yaml"
    shutil.copy(REPOSITORY / "manifests/samples/inferenceservice-chat.yaml", manifest)
    load = tmp_path / "load.json"
    load.write_text(json.dumps({"MM": {"rate_per_s": 3.0, "input_tokens": 500, "output_tokens": 200}}))
    done = installed("plan", "-f", str(manifest), "--load", str(load), "--output", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pools"]
