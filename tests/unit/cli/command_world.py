"""Runs the `dynamollm` command in this process, with files that a test writes."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamollm.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
CHAT = ROOT / "manifests" / "samples" / "inferenceservice-chat.yaml"
PROFILE = ROOT / "manifests" / "profiles" / "h100-llama2-70b-vllm.yaml"

LOAD = """
SS: {rate_per_s: 2.0, input_tokens: 120, output_tokens: 50}
MM: {rate_per_s: 3.0, input_tokens: 600, output_tokens: 200}
LL: {rate_per_s: 2.5, input_tokens: 2200, output_tokens: 420}
"""


@dataclass
class Command:
    """One subcommand, called again and again."""

    name: str
    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch
    columns: int = 200
    """Of the terminal."""

    def file(self, name: str, text: str | dict[str, Any]) -> str:
        """Write a file and return its path."""
        path = self.folder / name
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return str(path)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit code, what it printed and what it complained about."""
        self.patch.setattr(sys, "argv", ["dynamollm", self.name, *arguments])
        self.patch.setenv("COLUMNS", str(self.columns))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self.capture.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0, captured.out, captured.err

    def json(self, *arguments: str) -> dict[str, Any]:
        """Return what it printed as JSON, all well."""
        code, out, err = self.run(*arguments, "--output", "json")
        assert (code, err) == (0, "")
        answer: dict[str, Any] = json.loads(out)
        return answer

    def complaint(self, *arguments: str) -> str:
        """Return the one line that it refused with."""
        code, out, err = self.run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        return err.removeprefix("dynamollm: ").rstrip()


def question(plan: Command, *more: str, load: str = LOAD, service: Path | str = CHAT) -> tuple[str, ...]:
    """Return what `plan` is asked: the sample service or another, on the shipped profile."""
    return ("-f", str(service), "-f", str(PROFILE), "--load", plan.file("load.yaml", load), *more)


def edited(plan: Command, **changes: Any) -> str:
    """Write the sample service with another spec (None: without that field), and return its path."""
    manifest = yaml.safe_load(CHAT.read_text())
    for key, value in changes.items():
        if value is None:
            del manifest["spec"][key]
        elif isinstance(value, dict):
            manifest["spec"][key] = manifest["spec"].get(key, {}) | value
        else:
            manifest["spec"][key] = value
    return plan.file("service.yaml", yaml.safe_dump(manifest))
