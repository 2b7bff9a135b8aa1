"""`kardam keys`: who may come, for operators; and a key of one's own, for workers.

Files alone: a server that is running looks at its folder five times a second. Never in here: what
a role may do.
"""

import json
from pathlib import Path

import click

from kardam.chronicle import holders
from kardam.client import check_endpoint
from kardam.errors import UsageError
from kardam.flags import json_option
from kardam.keys import Keys
from kardam.kits import (
    ROLES,
    SERVER,
    Folder,
    Kit,
    checked_key,
    new_pair,
    pair_at,
    write_kit,
)
from kardam.messages import Role
from kardam.ring import Entry

# A user's own key, where no other is named.
MY_KEY = Path(click.get_app_dir("kardam")) / "key.json"

role_option = click.option(
    "--role",
    type=click.Choice(ROLES),
    default="worker",
    show_default=True,
    help="What the key is for: gradients, evaluations, or the books.",
)
keys_argument = click.argument("keys", type=click.Path(path_type=Path))


@click.group("keys", short_help="Who may come: new, enroll, list, revoke, kit.")
def keys_group() -> None:
    """Who may come to a server that others reach: it lets in only who is enrolled.

    KEYS is the folder that kardam serve named, or its run's directory.
    """


@keys_group.command("new")
@click.argument("file", type=click.Path(path_type=Path), default=MY_KEY)
def new_command(file: Path) -> None:
    """A key of your own in FILE, for nobody else to read; prints its public half, for an operator.

    FILE is by default where kardam work looks for it. One that is there already is only told.

    \b
    Example:
      kardam keys new
    """
    click.echo(pair_at(file).public)
    click.echo(f"{file}: its secret half; keep it to yourself", err=True)


@keys_group.command("enroll")
@keys_argument
@click.argument("key")
@click.option("--name", help="What you call it.  [default: the beginning of KEY]")
@role_option
def enroll_command(keys: Path, key: str, name: str | None, role: Role) -> None:
    """Let in who has KEY, a public one. A server that is running knows it at once.

    \b
    Example:
      kardam keys enroll runs/mine 5f0c... --name alice
    """
    folder, public = Folder.of(keys), checked_key(key, "KEY")
    entry = Entry(role, name or public[:8])
    folder.enroll(public, entry)
    click.echo(f"{entry.name} may come as {role}", err=True)


@keys_group.command("revoke")
@keys_argument
@click.argument("who")
def revoke_command(keys: Path, who: str) -> None:
    """Let WHO, a name or a key, in no more. A server that is running sends it away at once.

    Its place is free for another key, which begins without a history.

    \b
    Example:
      kardam keys revoke runs/mine alice
    """
    _, entry = Folder.of(keys).revoke(who)
    click.echo(f"{entry.name}, {entry.role}, may come no more", err=True)


@keys_group.command("list")
@keys_argument
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    help="The run whose places are told.  [default: that which KEYS is of]",
)
@json_option
def list_command(keys: Path, run: Path | None, as_json: bool) -> None:
    """Who is enrolled, and as which worker each key is known in journal, stats and explain: a
    number, or - where it has not come.

    \b
    Example:
      kardam keys list runs/mine
    """
    folder = Folder.of(keys)
    if run is not None and not run.is_dir():
        raise UsageError(f"--run {run}: no such directory")
    enrolled = sorted(folder.enrolled().items(), key=lambda item: item[1])
    # The newest holder of each place.
    latest = {holder.worker: holder.key for holder in holders(run or folder.path.parent)}
    places = {key: worker for worker, key in latest.items()}
    if as_json:
        rows = [
            {"worker": places.get(key), "name": entry.name, "role": entry.role, "key": key}
            for key, entry in enrolled
        ]
        click.echo(json.dumps({"keys": rows}))
        return
    for key, entry in enrolled:
        click.echo(f"{places.get(key, '-'):>4}  {entry.name:<20}  {entry.role:<9}  {key}")


@keys_group.command("kit")
@keys_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="What you call it.  [default: that of FILE]")
@click.option("--endpoint", help="Where they reach the server.  [default: as it printed it]")
@role_option
def kit_command(keys: Path, file: Path, name: str | None, endpoint: str | None, role: Role) -> None:
    """All that one peer needs, in FILE: where the server is, its key, and a new one, enrolled.

    Whoever has FILE is that peer: hand it over as you would a password.

    \b
    Examples:
      kardam keys kit runs/mine alice.kit      (and there: kardam work alice.kit)
      kardam keys kit runs/mine me.kit --role operator      (kardam stats me.kit)
    """
    folder, pair = Folder.of(keys), new_pair()
    if not (folder.path / SERVER).exists():
        raise UsageError(f"{folder.path / SERVER}: not there; its server makes it when it starts")
    where = endpoint or folder.endpoint
    if not where:
        raise UsageError("--endpoint: this server has not run yet; say where they will reach it")
    entry = Entry(role, name or file.stem)
    write_kit(file, Kit(check_endpoint(where), role, Keys(folder.pair.public, *pair)))
    try:
        folder.enroll(pair.public, entry)
    except BaseException:
        file.unlink()
        raise
    click.echo(f"{file}: {entry.name} may come as {role} to {where}", err=True)
