"""kardam checkpoint: models that are kept, listed, shown and exported."""

import json
import math
from pathlib import Path

import click

from kardam.checkpoint import kept, load, model_file, save_model, updates
from kardam.flags import json_option
from kardam.growth import norm
from kardam.help import Ordered


@click.group("checkpoint", cls=Ordered, short_help="Models that are kept: list, show, export, new.")
def checkpoint_group() -> None:
    """Models that are kept: those of a run, or any safetensors file."""


path_argument = click.argument("path", type=click.Path(path_type=Path))


@checkpoint_group.command("list", short_help="The checkpoints that a run kept.")
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def list_command(run: Path, as_json: bool) -> None:
    """The checkpoints that RUN kept, oldest first.

    \b
    Example:
      kardam checkpoint list runs/mine
    """
    rows = [
        {
            "path": str(folder),
            "updates": updates(folder),
            "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        }
        for folder in kept(run)
    ]
    if as_json:
        click.echo(json.dumps({"checkpoints": rows}))
        return
    for row in rows:
        click.echo("{path}  {updates:>9,} updates  {bytes:>13,} bytes".format(**row))


@checkpoint_group.command("show", short_help="What a model is made of.")
@path_argument
@json_option
def show_command(path: Path, as_json: bool) -> None:
    """What the model at PATH is made of: a run (its newest), a checkpoint, or a safetensors file.

    \b
    Examples:
      kardam checkpoint show runs/mine
      kardam checkpoint show model.safetensors
    """
    file = model_file(path)
    manifest, x = load(file)
    parts = zip(manifest.tensors, manifest.places(), strict=True)
    rows = [
        {"name": name, "shape": shape, "rms": norm(x[place]) / max(math.prod(shape), 1) ** 0.5}
        for (name, shape), place in parts
    ]
    if as_json:
        click.echo(json.dumps({"path": str(file), "numbers": manifest.d, "tensors": rows}))
        return
    click.echo(f"{file}: {manifest.d:,} numbers in {len(rows)} tensors")
    wide = max(len(name) for name, _ in manifest.tensors)
    for (name, shape), row in zip(manifest.tensors, rows, strict=True):
        size = " x ".join(map(str, shape)) or "one number"
        click.echo(f"  {name:<{wide}}  {size:<16}  rms {row['rms']:.3g}")


@checkpoint_group.command("export", short_help="Write a model to a file of your own.")
@path_argument
@click.argument("file", type=click.Path(path_type=Path))
def export_command(path: Path, file: Path) -> None:
    """Write the model at PATH (as for show) to FILE, float32 by its parameters' own names.

    In Python: model.load_state_dict(load_file("trained.safetensors"), strict=False)

    \b
    Example:
      kardam checkpoint export runs/mine trained.safetensors
    """
    source = model_file(path)
    manifest, x = load(source)
    save_model(file, manifest, x)
    click.echo(f"{file}: {manifest.d:,} numbers of {source}", err=True)
