"""Options that take one of a few names."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import click

from dynamollm.core.names import meant

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Name(click.Choice[str]):
    """A choice in any letter case; a wrong one is answered with the one that was meant."""

    def __init__(self, choices: Any, *, also: Mapping[str, str] = _NONE) -> None:
        """Take the names, none of which differs from another in letter case alone; ``also``: other words for them."""
        super().__init__(choices, case_sensitive=False)
        self._also = {word.casefold(): str(name) for word, name in also.items()}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name that was typed, or that another word was typed for."""
        return super().convert(self._also.get(str(value).strip().casefold(), value), param, ctx)

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return what is said of a value that is none of the names."""
        return f"{value!r}: {meant(str(value), self.choices)}."
