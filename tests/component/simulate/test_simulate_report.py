"""The report in a real browser: Debian's chromium, where there is one (``apt-get install chromium``)."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynamollm.core.records import Slo, SloRule
from dynamollm.simulator.report import report_html
from dynamollm.simulator.shipped import sample_service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SLO: Slo = sample_service(None).slo


def answer(policy: str, *, energy_kwh: float, meets_slo: bool) -> dict[str, Any]:
    quantiles = {"SS": {"p50": 40.0, "p90": 80.0, "p99": 190.0}, "LL": {"p50": 300.0, "p90": 700.0, "p99": 1500.0}}
    above = {"SS": {**quantiles["SS"], "p99": 400.0}, "LL": quantiles["LL"]}
    hours = [k / 60 for k in range(1, 61)]
    pools = ("ll", "lm", "ls", "ml", "mm", "ms", "sl", "sm", "ss")
    return {
        "settings": {},
        "single_pool_servers": 4,
        "result": {
            "policy": policy,
            "order": "fcfs",
            "energy_kwh": energy_kwh,
            "servers": 3.2,
            "gpu_hours": 25.6,
            "cost_usd": 64.0,
            "carbon_kg": 3.1,
            "power_w": {"p50": 9000.0, "p99": 14000.0},
            "slo_attainment": {
                "total": 0.995 if meets_slo else 0.91,
                "by_class": {"SS": 0.9, "LL": 0.998},
                "within_five": 0.99,
            },
            "meets_slo": meets_slo,
            "failed": 0,
            "reconfigurations": 12,
            "worst_percentile": None,
            "ttft_ms": quantiles if meets_slo else above,
            "tbt_ms": quantiles,
            "token_gap_ms": quantiles,
        },
        "series": {
            "hours": hours,
            "power_w": {pool: [2000.0] * 60 for pool in pools},
            "gpus": {pool: [8.0] * 60 for pool in pools},
            "instances": {pool: [1.0] * 60 for pool in pools},
            "clock_mhz": {"ll": [1200.0] * 60, "ms": [None] * 30 + [1095.0] * 30},
            "degrees": {"TP4": [4.0] * 60, "TP8": [1.0] * 60},
            "attainment": [0.99] * 59 + [None],
        },
    }


@pytest.fixture
def report(tmp_path: Path) -> Path:
    answers = [
        answer("SinglePool", energy_kwh=14.0, meets_slo=True),
        answer("Joint", energy_kwh=6.0, meets_slo=True),
        answer("<script>", energy_kwh=4.0, meets_slo=False),
    ]
    path = tmp_path / "report.html"
    path.write_text(report_html(answers, title="a week of </title>", about="Profile modern.", slo=SLO))
    return path


def test_the_report_is_one_file_that_asks_the_network_for_nothing(report: Path) -> None:
    page = report.read_text()
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=", markup)
    assert "a week of &lt;/title&gt;" in page
    assert "0.43" in page
    assert "<td>&lt;script&gt;</td>" in page
    assert "relative: energy over that of SinglePool fcfs.</p>" in page


def test_what_misses_the_slo_stands_out(report: Path) -> None:
    page = report.read_text()
    assert page.count("<td>91.00 % missed</td>") == 1
    assert "Policies that miss the SLO are red and hatched" in page
    # Of every bar chart the last bar, and of both latencies that of the class that misses it: not of the policies that keep the SLO.
    assert page.count('"shape":["","","/"]') == 4
    assert page.count('"shape":["/",""]') == 2
    assert page.count("4.00 (0.29), missed") == 1
    assert page.count("ms, logarithmic") == 2


def plots(answers: list[dict[str, Any]], slo: Slo = SLO) -> dict[str, Any]:
    page = report_html(answers, title="a week", about="Profile modern.", slo=slo)
    found: dict[str, Any] = json.JSONDecoder().raw_decode(page[page.index("const PLOTS = ") + len("const PLOTS = ") :])[
        0
    ]
    return found


def hatched(name: str, answers: list[dict[str, Any]], slo: Slo = SLO) -> list[str]:
    """Return the classes whose bars are hatched, of the last policy."""
    bars = plots(answers, slo)[name]["data"][len(answers) - 1]
    pattern = bars["marker"]["pattern"]["shape"]
    outlined = [bool(width) for width in bars["marker"]["line"]["width"]]
    assert outlined == [bool(one) for one in pattern]
    return [c for c, shape in zip(bars["x"], pattern, strict=True) if shape]


SS_HIGH = {"ttft_ms": {"SS": {"p99": 400.0}, "LL": {"p99": 1500.0}}}
LOW = {"ttft_ms": {"SS": {"p99": 200.0}, "LL": {"p99": 1500.0}}}


@pytest.mark.parametrize(
    ("rule", "meets", "result", "ttft", "tbt"),
    [
        # Above its limit, and yet 99 % of all requests together keep theirs.
        (SloRule.PER_REQUEST, True, SS_HIGH, [], []),
        (SloRule.PER_REQUEST, False, SS_HIGH, ["SS"], []),
        # Requests of both classes miss some limit, SS its TTFT, and of LL it cannot be told.
        (SloRule.PER_REQUEST, False, SS_HIGH | {"by_class": {"SS": 0.9, "LL": 0.98}}, ["SS", "LL"], ["LL"]),
        (SloRule.PER_REQUEST, False, LOW | {"by_class": {"SS": 0.995, "LL": 0.995}}, [], []),
        (SloRule.FIVE_TIMES_ALONE, False, SS_HIGH, [], []),
        (SloRule.PER_CLASS_PERCENTILE, False, SS_HIGH, ["SS"], ["LL"]),
        (SloRule.PER_CLASS_PERCENTILE, True, LOW, [], []),
    ],
)
def test_bars_are_hatched_by_the_rule_in_force(
    *, rule: SloRule, meets: bool, result: dict[str, Any], ttft: list[str], tbt: list[str]
) -> None:
    one = answer("Joint", energy_kwh=6.0, meets_slo=meets)
    one["result"]["tbt_ms"] = {"SS": {"p99": 40.0}, "LL": {"p99": 50.0}}
    one["result"]["token_gap_ms"] = {"SS": {"p99": 40.0}, "LL": {"p99": 900.0 if not meets else 90.0}}
    one["result"]["slo_attainment"]["by_class"] = result.get("by_class", {"SS": 0.9, "LL": 0.998})
    one["result"]["ttft_ms"] = result["ttft_ms"]
    slo = replace(SLO, rule=rule)
    assert (hatched("ttft", [one], slo), hatched("tbt", [one], slo)) == (ttft, tbt)
    # The same where the rule is swept, and the one that was asked for is another.
    if rule is not SloRule.PER_CLASS_PERCENTILE:
        one["settings"] = {"slo-rule": {SloRule.PER_REQUEST: "att", SloRule.FIVE_TIMES_ALONE: "x5"}[rule]}
        other = {SloRule.PER_REQUEST: SloRule.FIVE_TIMES_ALONE, SloRule.FIVE_TIMES_ALONE: SloRule.PER_REQUEST}[rule]
        assert hatched("ttft", [one], replace(SLO, rule=other)) == ttft


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (SloRule.PER_REQUEST, "The rule att asks that 99 % of all requests together keep both limits"),
        (SloRule.FIVE_TIMES_ALONE, "no bar is hatched"),
        (SloRule.PER_CLASS_PERCENTILE, "By the rule p99 what is above it misses the SLO, and is hatched."),
    ],
)
def test_the_legend_says_what_hatched_bars_mean(rule: SloRule, words: str) -> None:
    page = report_html(
        [answer("Joint", energy_kwh=6.0, meets_slo=True)], title="", about="", slo=replace(SLO, rule=rule)
    )
    assert words in page
    assert page.count("hatched. ") + page.count("hatched, ") + page.count("Hatched: ") == 1


def in_browser(page: Path, profile: Path) -> str:
    """Return the page's DOM once its scripts have run."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom"),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_browser_draws_every_plot_of_the_page_and_of_the_best_policy(report: Path, tmp_path: Path) -> None:
    dom = in_browser(report, tmp_path / "browser")
    assert 'data-ready="true"' in dom
    # Four bars, two latencies, and six over time of the policy that is shown.
    drawn = re.findall(r'class="plot js-plotly-plot" id="([^"]+)"', dom)
    assert len(drawn) == 12
    assert {name.split("-")[1] for name in drawn if "-" in name} == {"1"}


OVERLAPS = """
<script>
const cross = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
const crossed = [], legends = [];
for (const plot of document.querySelectorAll('.js-plotly-plot')) {
  const legend = plot.querySelector('.legend');
  if (!legend) continue;
  legends.push(plot.id);
  const box = legend.getBoundingClientRect(), whole = plot.getBoundingClientRect();
  if (box.top < whole.top || box.bottom > whole.bottom || box.right > whole.right) crossed.push(plot.id + ' outside');
  for (const other of plot.querySelectorAll('.xtitle, .ytitle, .xtick, .ytick, .plot .trace, .gtitle'))
    if (cross(box, other.getBoundingClientRect())) crossed.push(plot.id + ' ' + other.getAttribute('class'));
}
document.body.dataset.legends = legends.length;
document.body.dataset.crossed = crossed.join('; ');
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("policies", [1, 16])
def test_legends_lie_over_nothing_else_with_nine_pools_and_many_policies(tmp_path: Path, policies: int) -> None:
    answers = [answer(f"SinglePoolElastic{number}", energy_kwh=6.0, meets_slo=True) for number in range(policies)]
    path = tmp_path / "many.html"
    page = report_html(answers, title="many", about="Profile modern.", slo=SLO)
    path.write_text(page.replace("</body>", f"{OVERLAPS}</body>"))
    dom = in_browser(path, tmp_path / "browser")
    found = dict(re.findall(r'data-(legends|crossed)="([^"]*)"', dom))
    # Two latencies, and power, GPUs, instances, degrees and clocks over time.
    assert found == {"legends": "7", "crossed": ""}
