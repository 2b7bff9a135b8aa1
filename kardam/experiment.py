"""Experiments as files: the keys are the flags' own names, so that there is no second list to keep.

A value may be a list, which makes the file a sweep (kardam.sweep). Never in here: what a verb does.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import tomli_w

from kardam.checkpoint import CHECKPOINTS, newest
from kardam.errors import UsageError, suggest
from kardam.help import Sectioned
from kardam.recipe import Recipe
from kardam.records import EXPERIMENT, Found, endpoint, resumable
from kardam.sweep import check_axis, flag

# Experiments that come with kardam, each with what it shows; named without their .toml.
GALLERY = Path(__file__).parent / "gallery"

# Flags that say what to do with an experiment, and are no part of it.
NOT_THE_EXPERIMENT = {"experiment", "resume", "out", "dry_run", "quiet", "as_json", "help"}
NOT_THE_EXPERIMENT |= {"dashboard"}

# What only a server needs of an experiment; where there is none, its file may say it all the same.
OF_A_SERVER = {
    "bind",
    "keys",
    "insecure",
    "memory-limit",
    "checkpoint-updates",
    "checkpoint-seconds",
    "keep",
    "durable",
    "transport",
}


# Where a command's context keeps the lists of its file.
AXES = "kardam.axes"


class FromFile(Sectioned):
    """A command whose flags may also stand in a file: an experiment's, or that of the run that it
    resumes. What is said on the command line counts more: one value, in place of a list too.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        if "help" not in given and not ctx.resilient_parsing:
            values = self._from_files(given)
            lists = {name: value for name, value in values.items() if isinstance(value, list)}
            ctx.default_map = values | {name: value[0] for name, value in lists.items()}
            ctx.meta[AXES] = {
                str(parameter.name): [parameter.type_cast_value(ctx, one) for one in its]
                for name, its in lists.items()
                for parameter in self.params
                if parameter.name == name and name not in given
            }
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            name = "" if error.param is None else str(error.param.name)
            if "," not in str(given.get(name)):
                raise
            words = f"{error.message} Several at once are a list in a file: {flag(name)} = [1, 2]."
            raise click.BadParameter(words, error.ctx, error.param) from error

    def _from_files(self, given: Mapping[str, Any]) -> dict[str, Any]:
        experiment, resume = given.get("experiment"), given.get("resume")
        if isinstance(experiment, str) and isinstance(resume, str):
            raise UsageError(f"expected {experiment} or --resume {resume}, and not both")
        if isinstance(experiment, str):
            return self._read(found_experiment(experiment), lists=True)
        out = given.get("out")
        if isinstance(resume, str):
            found = resumed(resume, Path(out) if isinstance(out, str) else None)
            if found is not None:
                # Where it listened, its workers look for it.
                where = {"bind": endpoint(found.run)} if found.checkpoint is not None else {}
                return {**self._read(found.run / EXPERIMENT, lists=False), **where}
        return {}

    def _read(self, path: Path, lists: bool) -> dict[str, Any]:
        """The file's values by parameter, some of them `lists`. Raises UsageError for what is no
        flag of this command.
        """
        flags = {
            flag_of(parameter): parameter
            for parameter in self.params
            if parameter.name not in NOT_THE_EXPERIMENT
        }
        values = {}
        for key, value in _toml(path).items():
            if key in OF_A_SERVER - flags.keys():
                continue
            if key not in flags:
                raise UsageError(f"{path}: unknown key {key!r}{suggest(key, flags)}")
            parameter = flags[key]
            where = f"{path}: {key}"
            if lists and isinstance(value, list):
                values[str(parameter.name)] = [_checked(one, parameter, where) for one in value]
                check_axis(value, where)
            else:
                values[str(parameter.name)] = _checked(value, parameter, where)
        return values


def axes() -> dict[str, list[Any]]:
    """The lists that stand in the experiment of the command that runs, by parameter."""
    found: dict[str, list[Any]] = click.get_current_context().meta.get(AXES, {})
    return found


def flag_of(parameter: click.Parameter) -> str:
    """A parameter's name as users write it, without dashes before it."""
    return flag(str(parameter.name))


def found_experiment(text: str) -> Path:
    """The file that is meant: a path, or where there is none, a name in the gallery."""
    path, ours = Path(text), GALLERY / f"{text}.toml"
    if ours.is_file() and not path.is_file():
        return ours
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    names = [file.stem for file in GALLERY.glob("*.toml")]
    raise UsageError(f"{text}: no such file, and no such experiment{suggest(text, names)}")


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        file = path / EXPERIMENT
        there = f", like {file}" if file.is_file() else ""
        words = f"{path}: {error.strerror}; expected an experiment in TOML{there}"
        raise UsageError(words) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected TOML: {error}") from error


def _checked(value: Any, parameter: click.Parameter, where: str) -> Any:
    """The value, if it is of the flag's own type: TOML says which it is."""
    kinds: Mapping[str, tuple[str, tuple[type, ...]]] = {
        "integer": ("a whole number", (int,)),
        "integer range": ("a whole number", (int,)),
        "float": ("a number", (int, float)),
        "boolean": ("true or false", (bool,)),
    }
    wanted, allowed = kinds.get(parameter.type.name, ("text in quotes", (str,)))
    if type(value) not in allowed:
        raise UsageError(f"{where}: expected {wanted}, got {value!r}")
    return value


def resumed(resume: str, out: Path | None) -> Found | None:
    """What to go on from; None where `auto` finds nothing yet. Raises UsageError where PATH has
    none.
    """
    if resume != "auto":
        return resumable(Path(resume))
    if out is None:
        raise UsageError("--resume auto: which run? give its directory as --out, too")
    if newest(out / CHECKPOINTS) is not None:
        return resumable(out)
    # It may have been killed before there was anything to keep.
    return Found(out, None, whole=True) if (out / EXPERIMENT).is_file() else None


def resolved(choices: Mapping[str, Any], recipe: Recipe) -> str:
    """The experiment as a file that says everything: this command of that file is the same run."""
    chosen = {
        flag_of(parameter): choices[str(parameter.name)]
        for parameter in click.get_current_context().command.params
        if parameter.name not in NOT_THE_EXPERIMENT
    }
    chosen |= {"f": recipe.f, "filter": recipe.filter, "dampening": recipe.dampening}
    plain = {
        flag: str(value) if isinstance(value, Path) else value
        for flag, value in chosen.items()
        if value is not None
    }
    return tomli_w.dumps(plain)
