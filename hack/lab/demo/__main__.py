"""``python -m lab.demo``: what ``make demo`` runs."""

import json
import signal
import sys

# Until there is something to clean up, Ctrl-C just ends the process: no traceback out of an import.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from rich.console import Console  # noqa: E402 - see above

from dynamollm.core.errors import DynamoLLMError  # noqa: E402 - see above
from lab.demo.options import Options  # noqa: E402 - see above
from lab.demo.run import run  # noqa: E402 - see above
from lab.demo.view import summary_table  # noqa: E402 - see above

INTERRUPTED = 130


def main() -> None:
    """Run the demo; whatever ends it early is one line."""
    console = Console()
    # Started in the background of a script it would have been told to ignore this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        options = Options.from_env()
        summary = run(options, console)
    except KeyboardInterrupt:
        console.print("demo: interrupted, everything it started has been stopped")
        sys.exit(INTERRUPTED)
    except (DynamoLLMError, OSError) as error:
        console.print(f"demo: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(1)
    console.print(summary_table(summary))
    if options.out:
        options.out.write_text(json.dumps(summary.as_json(), indent=2) + "\n")


if __name__ == "__main__":
    main()
