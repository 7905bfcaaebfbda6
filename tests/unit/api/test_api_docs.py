import re
from pathlib import Path

import pytest

import make_api_docs
from dynamollm.api.crd import RESOURCES
from dynamollm.api.inferenceservice_status import CONDITIONS


def test_the_committed_page_is_what_the_models_say() -> None:
    assert make_api_docs.PAGE.read_text() == make_api_docs.page(), "run `make crds`"


def test_the_page_has_every_kind_condition_and_column() -> None:
    page = make_api_docs.page()
    for resource in RESOURCES:
        assert f"## {resource.kind}\n" in page
        for column in resource.columns:
            assert f"| {column.name.upper()} |" in page
    for condition in CONDITIONS:
        assert f"| `{condition}` |" in page


@pytest.mark.parametrize(
    "row",
    [
        "| `gpu.tensorParallel` | list of 1 to 5, each once: integer, 1 to 16 | `[2, 4, 8]` |",
        "| `slo.tbtMilliseconds` | integer, 1 to 600000 | **required** |",
        "| `slo.overrides[].class` | `SS` or `SM` or `SL` or `MS` or `MM` or `ML` or `LS` or `LM` or `LL` | **required** |",
        "| `paused` | boolean | `false` |",
        "| `engine.env[].name` | string, 1 to 253 characters that match `^[-._A-Za-z][-._A-Za-z0-9]*$` | **required** |",
        r"| `engine.podTemplate.resources.limits` | map of up to 16: string, 1 to 32 characters that match `^[0-9]+(\.[0-9]+)?(m\|k\|M",
        "| `pools[].groups[].clockMHz` | integer, 0 to 10000 |  |",
        "| `latency.roofline.linearEfficiency` | number, above 0 to 1 | **required** |",
    ],
)
def test_a_row_says_type_bounds_and_default(row: str) -> None:
    assert row in make_api_docs.page()


def test_every_row_of_a_table_has_as_many_cells_as_its_header() -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", make_api_docs.page(), flags=re.MULTILINE)
    assert len(tables) == 11
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_the_script_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["make_api_docs.py", "--out", str(tmp_path / "api.md")])
    make_api_docs.main()
    assert (tmp_path / "api.md").read_text() == make_api_docs.page()
