"""Run the command line: ``PYTHONPATH=hack .venv/bin/python -m lab``."""

import signal

# Until there is something to clean up, Ctrl-C just ends the process: no traceback out of an import.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from lab.cli import main  # noqa: E402 - see above

signal.signal(signal.SIGINT, signal.default_int_handler)
main()
