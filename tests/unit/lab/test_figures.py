"""Benches that run one after the other leave their figures in one file."""

import json
from pathlib import Path

import pytest

from lab.figures import record


def test_each_bench_adds_its_own_and_replaces_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setenv("BENCH_OUT", str(out))
    record({"plan_ms_p50": 3.0, "rss_mb": 90.0})
    record({"forecast": [{"method": "ours"}]})
    record({"rss_mb": 80.0})
    assert json.loads(out.read_text()) == {"plan_ms_p50": 3.0, "rss_mb": 80.0, "forecast": [{"method": "ours"}]}


@pytest.mark.parametrize("text", ["[1]", "not JSON"])
def test_somebody_elses_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    out = tmp_path / "notes"
    out.write_text(text)
    monkeypatch.setenv("BENCH_OUT", str(out))
    with pytest.raises(SystemExit, match="is no JSON object"):
        record({"rss_mb": 80.0})
    assert out.read_text() == text


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_OUT", raising=False)
    monkeypatch.chdir(tmp_path)
    record({"rss_mb": 80.0})
    assert list(tmp_path.iterdir()) == []
