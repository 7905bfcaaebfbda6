"""What goes to stdout is ours alone."""

import subprocess
import sys

NOISY = """
import os, sys
import click
from dynamollm.cli import crd, main

@click.command()
def noisy():
    os.write(1, b"a library's\\n")
    click.echo("ours")

crd.command = noisy
sys.argv = ["dynamollm", "crd"]
main.main()
"""


def test_what_a_library_prints_by_itself_goes_to_stderr() -> None:
    ended = subprocess.run([sys.executable, "-c", NOISY], check=True, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("ours\n", "a library's\n")
