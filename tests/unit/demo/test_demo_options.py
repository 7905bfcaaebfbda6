from pathlib import Path

import pytest

from dynamollm.core.errors import InvalidInputError
from lab.demo.options import Options


def test_the_defaults_need_no_environment() -> None:
    options = Options.from_env({})
    assert (options.name, options.speed, options.rate, options.start_s, options.out) == ("demo", 8.0, 1.0, 0.0, None)


def test_reads_every_setting(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.touch()
    out = tmp_path / "out.json"
    env = {
        "NAME": "second",
        "SPEED": "4",
        "RATE": "2",
        "START": "60",
        "DURATION": "600",
        "TRACE": str(trace),
        "DEMO_OUT": str(out),
    }
    assert Options.from_env(env) == Options(
        name="second", speed=4, rate=2, start_s=60, duration_s=600, trace=trace, out=out
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SPEED", "fast", r"SPEED is 'fast': give a number from 1 to 30"),
        ("SPEED", "0", r"SPEED is '0'"),
        ("SPEED", "nan", r"SPEED is 'nan'"),
        ("RATE", "100", r"RATE is '100': give a number from 0\.1 to 10"),
        ("DURATION", "5", r"DURATION is '5': give a number from 60"),
        ("TRACE", "/nowhere/trace.csv", r"TRACE is /nowhere/trace\.csv: no such file"),
        ("DEMO_OUT", "/nowhere/out.json", r"DEMO_OUT is /nowhere/out\.json: its folder does not exist"),
    ],
)
def test_bad_input_names_the_setting_the_value_and_the_remedy(name: str, value: str, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        Options.from_env({name: value})
