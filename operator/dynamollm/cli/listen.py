"""The option by which every part that listens is told where."""

import os

import click

from dynamollm.adapters.address import HOST_ENV, listening_address

host_option = click.option(
    "--host",
    default=lambda: listening_address(os.environ),
    show_default="all addresses",
    help=f"Address to listen on (env {HOST_ENV}).",
)
