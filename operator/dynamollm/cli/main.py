"""The ``dynamollm`` command: a lazy group, so that each part starts with its own imports alone."""

import importlib
import os
import sys
from typing import Final

import click

from dynamollm.core.errors import DynamoLLMError

_COMMANDS: Final = {
    "operator": "run the operator: reconcile InferenceServices",
    "agent": "run the node agent: apply clock limits, export GPU energy",
    "router": "run a service's router",
    "engine": "run a simulated engine",
    "check": "is the installation whole? (in helm test)",
    "uninstall": "end operator and agents, release finalizers (in the chart's pre-delete hook)",
    "plan": "plan a service for a load, without a cluster",
    "capacity": "what one instance carries within the SLO, by TP degree and clock",
    "simulate": "replay a trace against policies, without a cluster",
    "crd": "print the CustomResourceDefinitions",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"dynamollm.cli.{cmd_name}").command
        if not isinstance(command, click.Command):
            msg = f"dynamollm.cli.{cmd_name}.command is not a click command"
            raise TypeError(msg)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        # The help texts stand here, so that --help imports none of the parts.
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dynamollm")
def cli() -> None:
    """Serve LLMs at least energy while every request class keeps its latency SLO."""


def _keep_stdout() -> None:
    """Write what we print to stdout, and to stderr what libraries print there by themselves: HiGHS does, and ours may be JSON for a pipe."""
    ours = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(ours, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, buffering=1)


def main() -> None:
    """Run the command; what it was asked wrongly, and an error of ours, are one line on stderr and exit code 2."""
    if sys.__stdout__ and sys.__stderr__ and sys.stdout is sys.__stdout__:
        _keep_stdout()
    try:
        code = cli(standalone_mode=False, prog_name="dynamollm")
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and not isinstance(error, click.exceptions.NoArgsIsHelpError):
            asked = error.ctx.command_path if error.ctx else "dynamollm"
            click.echo(f"{asked}: {' '.join(error.format_message().split())} See {asked} --help.", err=True)
        else:
            error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(1)
    except DynamoLLMError as error:
        click.echo(f"dynamollm: {error}", err=True)
        sys.exit(2)
    # --help comes back as a code where click does not end the process.
    sys.exit(code if isinstance(code, int) else 0)
