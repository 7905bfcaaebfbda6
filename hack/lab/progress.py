"""What a user sees while something takes its time: a live line in a terminal, two plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console
from rich.markup import escape


class Progress:
    """Tells of steps on a console, stderr by default."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)

    def line(self, text: str) -> None:
        """Print one line."""
        self._console.print(escape(text), soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show that ``what`` is being done, for how long, and the details that the yielded function is called with."""
        began = time.monotonic()
        if not self._console.is_terminal:
            self.line(f"{what} ...")
            yield lambda _: None
        else:
            columns = (
                bars.SpinnerColumn(),
                bars.TextColumn("{task.description}"),
                bars.TimeElapsedColumn(),
                bars.TextColumn("[dim]{task.fields[detail]}"),
            )
            with bars.Progress(*columns, console=self._console, transient=True) as live:
                task = live.add_task(escape(what), total=None, detail="")
                yield lambda detail: live.update(task, detail=escape(detail))
        self.line(f"{what}: {time.monotonic() - began:.0f} s")
