"""Names that a person types: other letter case is the same name, and a wrong one is answered with the one that was meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from dynamollm.core.errors import InvalidInputError
from dynamollm.core.records import Order, SloRule

ORDERS: Final = {"fcfs": Order.FIRST_COME_FIRST_SERVED, "edf": Order.EARLIEST_DEADLINE_FIRST}
RULES: Final = {"att": SloRule.PER_REQUEST, "x5": SloRule.FIVE_TIMES_ALONE, "p99": SloRule.PER_CLASS_PERCENTILE}
"""Short names of the simulator, and what the API calls them."""


def known_name(text: str, known: Iterable[str], *, field: str) -> str:
    """Return the name as it is spelt among those that are known.

    Args:
        text: as it was typed.
        known: no two of them differ in letter case alone.
        field: where it was typed, for the error.

    Raises:
        InvalidInputError: it is none of them; names the field, the value, the likeliest name and all names.
    """
    spelt = {name.casefold(): name for name in known}
    name = text.strip().casefold()
    if name in spelt:
        return spelt[name]
    raise InvalidInputError(f"{field} {text.strip()!r}: {meant(text, spelt.values())}")


def meant(text: str, known: Iterable[str]) -> str:
    """Return what to type in place of an unknown name: the likeliest, if there is one, and all."""
    spelt = {name.casefold(): name for name in known}
    close = get_close_matches(text.strip().casefold(), spelt, n=1)
    likeliest = f"did you mean {spelt[close[0]]}? " if close else ""
    return f"{likeliest}{'U' if close else 'u'}se one of {', '.join(spelt.values())}"
