"""Keys as files: a pair, a kit, and the folder in which a server keeps who is enrolled.

What holds a secret is its owner's alone (mode 0600), or is not read. Never in here: who may do
what, or a socket.

    KEYS/server.json           the server's own pair, made at first use
    KEYS/endpoint              where it was last reached
    KEYS/enrolled/<key>.json   one file a key: its role, and what its operator calls it
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

import zmq
from zmq.utils import z85

from kardam.errors import Unwritable, UsageError
from kardam.keys import Keys
from kardam.messages import Role
from kardam.ring import Entry, Key

SERVER, WHERE, ENROLLED = "server.json", "endpoint", "enrolled"

# A run's folder of keys.
KEYS = "keys"

ROLES: tuple[Role, ...] = get_args(Role)

# The longest name of a key; it stands in tables.
NAME_MAX = 40

_KEY = re.compile(r"[0-9a-f]{64}")


class Pair(NamedTuple):
    """A public key and its secret, 64 hexadecimal digits each."""

    public: Key
    secret: str


class Kit(NamedTuple):
    """All that a peer needs to come: where the server is, and the keys."""

    endpoint: str
    role: Role
    keys: Keys


def new_pair() -> Pair:
    """Drawn by libsodium. Raises UsageError where ZeroMQ was built without it."""
    if not zmq.has("curve"):
        raise UsageError(
            "this libzmq has no CURVE: install pyzmq from its wheels, listen on tcp://127.0.0.1:PORT"
            " alone (and use a tunnel), or say --insecure"
        )
    return Pair(*(z85.decode(half).hex() for half in zmq.curve_keypair()))


def checked_key(text: str, where: str) -> Key:
    """A public key, as users write it. Raises UsageError."""
    if _KEY.fullmatch(text) is None:
        raise UsageError(f"{where}: expected a public key of 64 hexadecimal digits, got {text!r}")
    return text


# --- files with a secret ---


def write_pair(path: Path, pair: Pair) -> None:
    """A new file. Raises UsageError where there is one, Unwritable where it can not be."""
    _write(path, pair._asdict())


def read_pair(path: Path) -> Pair:
    """Raises UsageError where it is none, or others may read it."""
    said = _read_secret(path)
    try:
        return Pair(*(checked_key(said[half], f"{path}: {half}") for half in Pair._fields))
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: expected a pair, as of kardam keys new") from error


def pair_at(path: Path) -> Pair:
    """The pair in this file, made at first use."""
    if not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unwritable(f"{path.parent}: {error.strerror}") from error
        write_pair(path, new_pair())
    return read_pair(path)


def write_kit(path: Path, kit: Kit) -> None:
    """A new file. Raises as `write_pair`."""
    _write(path, {"endpoint": kit.endpoint, "role": kit.role, **kit.keys._asdict()})


def read_kit(path: Path) -> Kit:
    """Raises UsageError where it is none, or others may read it."""
    said = _read_secret(path)
    try:
        keys = Keys(*(checked_key(said[half], f"{path}: {half}") for half in Keys._fields))
        if said["role"] not in ROLES:
            raise UsageError(f"{path}: unknown role {said['role']!r}")
        return Kit(str(said["endpoint"]), said["role"], keys)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: expected a kit, as of kardam keys kit") from error


def _write(path: Path, says: Mapping[str, Any]) -> None:
    """A file that only its owner reads, there whole or not at all."""
    try:
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".")  # 0600
        try:
            with os.fdopen(handle, "w") as file:
                file.write(json.dumps(says, indent=2) + "\n")
            os.link(beside, path)
        finally:
            os.unlink(beside)
    except FileExistsError as error:
        raise UsageError(f"{path}: exists already; name another file") from error
    except OSError as error:
        raise Unwritable(f"{path}: {error.strerror}") from error


def _read_secret(path: Path) -> Any:
    try:
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{path}: others may read it, and it holds a secret: chmod 600 {path}")
        return json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; expected a file of keys") from error
    except ValueError as error:
        raise UsageError(f"{path}: expected a file of keys in JSON: {error}") from error


# --- who is enrolled ---


class Folder:
    """A server's folder of keys. Whoever may write there decides who may come.

    It need not be there: the pair is drawn, nobody is enrolled, and `make` keeps it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._enrolled = path / ENROLLED
        # What each file said when it was made.
        self._known: dict[Key, tuple[int, Entry | None]] = {}

    @classmethod
    def of(cls, path: Path) -> "Folder":
        """The folder itself, or that of the run which `path` is. Raises UsageError."""
        for folder in (path, path / KEYS):
            if (folder / ENROLLED).is_dir():
                return cls(folder)
        raise UsageError(
            f"{path}: no keys there; expected a folder of kardam serve --keys, or a run"
        )

    @cached_property
    def pair(self) -> Pair:
        """The server's own. Raises UsageError where others may read it."""
        path = self.path / SERVER
        return read_pair(path) if path.exists() else new_pair()

    @property
    def endpoint(self) -> str:
        """Where its server was last reached; empty where it never was."""
        try:
            return (self.path / WHERE).read_text().strip()
        except OSError:
            return ""

    def make(self, endpoint: str = "") -> None:
        """Keep the pair, and where its server is reached. Raises Unwritable; and UsageError where
        others may write there.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / ENROLLED).mkdir(mode=0o700, exist_ok=True)
            for folder in (self.path, self.path / ENROLLED):
                if folder.stat().st_mode & 0o022:
                    raise UsageError(
                        f"{folder}: others may write there, and so enrol: chmod go-w {folder}"
                    )
            if not (self.path / SERVER).exists():
                write_pair(self.path / SERVER, self.pair)
            if endpoint:
                (self.path / WHERE).write_text(endpoint + "\n")
        except OSError as error:
            raise Unwritable(f"{self.path}: {error.strerror}") from error

    def enrolled(self) -> Mapping[Key, Entry]:
        """Who is enrolled by now. What can not be read enrols nobody; where the list itself can
        not, the last one holds.
        """
        with contextlib.suppress(OSError), os.scandir(self._enrolled) as files:
            found = {}
            for file in files:
                key, made = file.name.removesuffix(".json"), file.stat().st_mtime_ns
                if _KEY.fullmatch(key):
                    known = self._known.get(key)
                    found[key] = known if known and known[0] == made else (made, self._entry(key))
            self._known = found
        return {key: entry for key, (_, entry) in self._known.items() if entry is not None}

    def enroll(self, key: Key, entry: Entry) -> None:
        """Raises UsageError where the key or the name stands in the list already."""
        if not (0 < len(entry.name) <= NAME_MAX and entry.name.isprintable()):
            raise UsageError(f"--name: expected 1 to {NAME_MAX} characters, got {entry.name!r}")
        for known, its in self.enrolled().items():
            if known == key:
                raise UsageError(f"this key is enrolled already, as {its.role} {its.name!r}")
            if its.name == entry.name:
                raise UsageError(f"--name: there is a {its.name!r} already; give another")
        _write(self._enrolled / f"{key}.json", entry._asdict())

    def revoke(self, who: str) -> tuple[Key, Entry]:
        """Strike out a name, or a key. Raises UsageError where there is no such one."""
        for key, entry in self.enrolled().items():
            if who in (key, entry.name):
                try:
                    (self._enrolled / f"{key}.json").unlink()
                except OSError as error:
                    raise Unwritable(f"{self._enrolled}: {error.strerror}") from error
                return key, entry
        raise UsageError(f"{who!r} is not enrolled in {self.path}: see kardam keys list")

    def _entry(self, key: Key) -> Entry | None:
        try:
            entry = Entry(**json.loads((self._enrolled / f"{key}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return entry if entry.role in ROLES and isinstance(entry.name, str) else None


# --- what a user says of where to go ---


def address(text: str) -> tuple[str, Keys | None]:
    """An endpoint, or a kit's file, as an endpoint and keys. Raises UsageError."""
    if "://" in text:
        return text, None
    if not Path(text).is_file():
        raise UsageError(
            f"expected an endpoint like tcp://127.0.0.1:5555, or a kit's file, got {text!r}"
        )
    kit = read_kit(Path(text))
    return kit.endpoint, kit.keys


def visitors(
    where: Sequence[str], count: int, server_key: str | None, key: Path
) -> tuple[str, list[Keys | None]]:
    """The one endpoint that is meant, and what each worker holds there: nothing, for `count`; or a
    kit each; or the pair in the file `key`, where the server's is given. Raises UsageError.
    """
    found = [address(text) for text in where]
    endpoint, keys = found[0]
    if any(other != endpoint for other, _ in found):
        raise UsageError(f"expected kits for one server, got {', '.join(e for e, _ in found)}")
    if keys is None and len(found) > 1:
        raise UsageError(f"expected one endpoint, got {len(found)}; several workers are --count")
    if keys is None and server_key is None:
        return endpoint, [None] * count
    if count != 1:
        raise UsageError(f"--count {count}: a key is one worker; give a kit for each")
    if keys is not None and server_key is not None:
        raise UsageError("expected a kit or --server-key, and not both")
    if server_key is not None:
        pair = pair_at(key)
        return endpoint, [Keys(checked_key(server_key, "--server-key"), *pair)]
    return endpoint, [its for _, its in found]
