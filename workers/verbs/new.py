"""kardam checkpoint new: a first model of anybody's module."""

from pathlib import Path

import click

from kardam.checkpoint import save_model


@click.command("new", short_help="Write the first model of your own module.")
@click.argument("module")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Its weights."
)
def new_command(module: str, file: Path, seed: int) -> None:
    """Write the first model of MODULE to FILE, for kardam serve: its trained parameters by name.

    MODULE is a function or class of yours that gives a torch.nn.Module, or a task.

    \b
    Examples:
      kardam checkpoint new mine:Net model.safetensors
      kardam checkpoint new mine:Net:hidden=64 model.safetensors --seed 1
    """
    # Torch is loaded by those who need a module, and no other verb of this process does.
    from workers.parameters import manifest_of, trained, vector_of
    from workers.tasks import load_module

    named = trained(load_module(module, "MODULE", seed))
    save_model(file, manifest_of(named), vector_of(named))
    click.echo(f"{file}: {manifest_of(named).d:,} numbers of {module}", err=True)
