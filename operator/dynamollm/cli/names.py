"""Options that take one of a few names."""

from typing import Any

import click

from dynamollm.core.names import meant


class Name(click.Choice[str]):
    """A choice in any letter case; a wrong one is answered with the one that was meant."""

    def __init__(self, choices: Any) -> None:
        """Take the names, none of which differs from another in letter case alone."""
        super().__init__(choices, case_sensitive=False)

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return what is said of a value that is none of the names."""
        return f"{value!r}: {meant(str(value), self.choices)}."
