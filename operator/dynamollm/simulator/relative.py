"""What energies of results are relative to: SinglePool where it is among them, which is what there would be without a policy."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

Answer = Mapping[str, Any]
"""What `campaign` gives: ``settings``, ``result``, ``series``."""

_BASE: Final = "SinglePool"


def label(answer: Answer) -> str:
    """Return what tells an answer from the others."""
    result = answer["result"]
    settings = "".join(f", {name} {value}" for name, value in answer["settings"].items())
    return f"{result['policy']} {result['order']}{settings}"


def relative(answer: Answer, answers: Sequence[Answer]) -> float | None:
    """Return an answer's energy over that of its base; None: that used none."""
    base = _base(answer, answers)["result"]["energy_kwh"]
    return answer["result"]["energy_kwh"] / base if base else None


def base_in_words(answers: Sequence[Answer]) -> str:
    """Return what energies are relative to, and whether that misses the SLO; for at least one answer."""
    bases = [_base(answer, answers) for answer in answers]
    first = bases[0]
    several = any(base is not first for base in bases)
    result = first["result"]
    name = f"{result['policy']} {result['order']} in the same settings" if several else label(first)
    what = name if result["policy"] == _BASE else f"{name}, the first line, as {_BASE} is not among these"
    missed = [base["result"]["meets_slo"] for base in bases].count(False)
    return what if not missed else f"{what}, which misses the SLO" + (" in some" if missed < len(bases) else "")


def _base(answer: Answer, answers: Sequence[Answer]) -> Answer:
    """Return the first SinglePool in the same settings; where there is none, the first answer."""
    alike = (one for one in answers if one["result"]["policy"] == _BASE and one["settings"] == answer["settings"])
    return next(alike, answers[0])
