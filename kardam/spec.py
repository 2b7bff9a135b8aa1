"""The one grammar of every choice a user makes: `name:key=value,key=value`, or
`package.module:attribute`.

A table maps names to factories, and a factory's own signature says which keys there are and of
which type: no second list to keep. Never in here: what a name means.
"""

import importlib
import inspect
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from kardam.errors import KardamError, TaskError, UsageError, suggest

T = TypeVar("T")

# A `+` that joins stages, not the one inside 1e+5.
_JOINT = re.compile(r"\+(?=\s*[A-Za-z_])")
_IMPORT_PATH = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?::(.*))?")

# The modules that users named, but for ours: what is raised in them is theirs to mend.
_THEIRS: set[str] = set()


class Spec(NamedTuple):
    """One parsed choice: the name before the colon, and the texts of its keys."""

    name: str
    args: dict[str, str]


def parse(text: str, knob: str) -> Spec:
    """`lognormal:mean=0.1,sigma=1` as a Spec; `knob` is the flag or key that errors name.

    Raises UsageError where a part is not `key=value` or a key stands twice.
    """
    name, _, rest = text.strip().partition(":")
    return Spec(name, _arguments(rest, text, knob))


def _arguments(rest: str, text: str, knob: str) -> dict[str, str]:
    args: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise UsageError(f"{knob} {text!r}: expected key=value, got {part!r}")
        if key in args:
            raise UsageError(f"{knob} {text!r}: the key {key!r} stands twice")
        args[key] = value
    return args


def is_import_path(text: str) -> bool:
    """Whether the text names something to be imported, and not one of kardam's own."""
    return _IMPORT_PATH.fullmatch(text.strip()) is not None


def reads_file(text: str, knob: str) -> bool:
    """Whether the text names a file to be read: whatever takes one calls it `path`."""
    return "path" in parse(text, knob).args


def stages(text: str) -> list[str]:
    """`growth:band=middle+clip` as its joined parts."""
    return [part.strip() for part in _JOINT.split(text) if part.strip()]


def build(text: str, table: Mapping[str, Callable[..., T]], knob: str, **given: Any) -> T:
    """The value that `text` names: a factory of `table`, or the user's own by its import path.

    Keys become the factory's parameters, read by their annotations. A factory may also ask, by
    parameter name, for anything in `given` (n, f, seed, ...); users cannot set those.

    Raises UsageError for an unknown name or key, a value of the wrong type, or a value that the
    factory refuses.
    """
    name, _, _ = text.strip().partition(":")
    if name in table:
        factory: Callable[..., T] = table[name]
        args = parse(text, knob).args
    elif match := _IMPORT_PATH.fullmatch(text.strip()):
        factory = cast("Callable[..., T]", load(match[1], match[2], knob))
        args = _arguments(match[3] or "", text, knob)
    else:
        # Who names a module and nothing in it meant to.
        own = f"; {name}.py is here: say {name}:NAME" if Path(f"{name}.py").is_file() else ""
        raise UsageError(f"{knob}: unknown name {name!r}{suggest(name, table)}{own}")
    return _call(factory, args, text, knob, given)


def fill(factory: Callable[..., T], text: str, knob: str) -> T:
    """What this factory makes of `key=value,key=value`, where the knob alone says which it is.

    Raises UsageError as `build` does.
    """
    return _call(factory, _arguments(text, text, knob), text, knob, {})


def load(module: str, attribute: str, knob: str) -> Any:
    """The attribute of an importable module; the current folder counts as importable."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"{knob} {module}:{attribute}: while importing: {error}") from error
        bare = module.removesuffix(".py")
        cure = (
            "names without a dot and a colon are kardam's own"
            if bare == module
            else f"say {bare}:{attribute}, without .py"
        )
        raise UsageError(
            f"{knob}: no module {module!r} to import from here ({here}); {cure}"
        ) from error
    except Exception as error:
        raise UsageError(
            f"{knob} {module}:{attribute}: importing it raised {type(error).__name__}: {error}"
        ) from error
    if module.partition(".")[0] not in ("kardam", "workers"):
        _THEIRS.add(found.__name__)
    if not hasattr(found, attribute):
        public = [name for name in vars(found) if not name.startswith("_")]
        raise UsageError(
            f"{knob}: module {module!r} has no {attribute!r}{suggest(attribute, public)}"
        )
    return getattr(found, attribute)


def blamed(error: BaseException) -> TaskError | None:
    """What to tell of an error that came by way of code that `load` found: what it is, and the
    innermost place there. None of one that did not.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_globals.get("__name__") in _THEIRS:
            code = frame.f_code
            where = f"{Path(code.co_filename).name}, line {line}, in {code.co_qualname}"
            words = " ".join(str(error).split())
            return TaskError(f"{where}: raised {type(error).__name__}: {words}")
    return None


def _call(
    factory: Callable[..., T], args: dict[str, str], text: str, knob: str, given: dict[str, Any]
) -> T:
    if not callable(factory):
        kind = type(factory).__name__
        raise UsageError(
            f"{knob} {text!r}: expected a function or a class, got a value of type {kind}"
        )
    parameters = _signature(factory).parameters
    own = [key for key in parameters if key not in given]
    values: dict[str, Any] = {key: given[key] for key in parameters if key in given}
    for key, value in args.items():
        if key not in own:
            raise UsageError(f"{knob} {text!r}: unknown key {key!r}{suggest(key, own)}")
        values[key] = _convert(value, _kind(parameters[key]), f"{knob} {text!r}: {key}")
    for key in own:
        if key not in values and parameters[key].default is inspect.Parameter.empty:
            raise UsageError(f"{knob} {text!r}: the key {key!r} is needed")
    try:
        return factory(**values)
    except KardamError:
        raise
    except ValueError as error:
        raise UsageError(f"{knob} {text!r}: {error}") from error


def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    # Half a millisecond each, and a hundred thousand workers are made by the same few factories.
    return _known(factory) if isinstance(factory, Hashable) else _read(factory)


_read = partial(inspect.signature, eval_str=True)
_known = cache(_read)


def _kind(parameter: inspect.Parameter) -> Any:
    """How a parameter is annotated; where it is not, the type of its default, or what fits."""
    if parameter.annotation is not inspect.Parameter.empty:
        return parameter.annotation
    kind = type(parameter.default)
    return kind if kind in (bool, int, float, str) else int | float | bool | str


def _convert(text: str, hint: Any, where: str) -> Any:
    """`text` read as the annotation says; a union is tried member by member."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        if text in typing.get_args(hint):
            return text
        raise UsageError(f"{where}: unknown value {text!r}{suggest(text, typing.get_args(hint))}")
    members = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    kinds = [kind for kind in members if kind is not type(None)]
    for kind in kinds:
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float, str, Path):
            try:
                return kind(text)
            except ValueError:
                continue
    wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise UsageError(f"{where}: expected {wanted}, got {text!r}")
