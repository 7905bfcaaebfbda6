"""``dynamollm crd``: print the CustomResourceDefinitions, or write them to a folder."""

from pathlib import Path

import click

from dynamollm.api.crd import RESOURCES, render


@click.command("crd")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write one file per kind into this folder instead of printing.",
)
def command(out: Path | None) -> None:
    """Print the CustomResourceDefinitions (`dynamollm crd | kubectl apply --server-side -f -`)."""
    if out is None:
        click.echo("---\n".join(render(resource) for resource in RESOURCES), nl=False)
        return
    out.mkdir(parents=True, exist_ok=True)
    for resource in RESOURCES:
        path = out / resource.file_name
        path.write_text(render(resource))
        click.echo(path)
