"""Messages to frames, and the frames of an adversary to messages or ProtocolError: nothing else.

A message is one header frame, a small msgpack map, and at most one body frame of raw bytes. Never
in here: what a message means, or a socket.
"""

import hashlib
import math
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np

from kardam.messages import (
    Books,
    Down,
    Enrol,
    Hello,
    Judged,
    Lent,
    Manifest,
    Message,
    Part,
    Push,
    Up,
    Vector,
    Welcome,
    Within,
)

# Raised by one with every change of what travels.
PROTOCOL = 5

# One message a chunk: heartbeats pass between two of them, and what is one chunk needs no copy. A
# peer who is silent for half a minute is lost, so a line must carry a megabit a second.
CHUNK_BYTES = 2**22

# The longest header we write is a Halt of 512 characters of four bytes.
HEADER_BYTES_MAX = 4096

# A manifest of ten thousand tensors with long names; a page of books for a thousand workers.
DOCUMENT_BYTES_MAX = 2**22

Bytes = bytes | memoryview


class ProtocolError(Exception):
    """A peer sent what is no message. Says what was expected, and what came."""


class VersionMismatch(ProtocolError):
    """A peer speaks another version; it deserves an answer, which is why this has a name."""

    def __init__(self, theirs: object) -> None:
        self.theirs = theirs
        super().__init__(f"expected protocol {PROTOCOL}, got {_told(theirs)}")


# --- frames ---

_BODY_BYTES_MAX: dict[type, int] = {
    Judged: CHUNK_BYTES,
    Lent: CHUNK_BYTES,
    Part: CHUNK_BYTES,
    Push: CHUNK_BYTES,
    Welcome: DOCUMENT_BYTES_MAX,
    Books: DOCUMENT_BYTES_MAX,
}


def encode(message: Message, body: Bytes = b"") -> list[Bytes]:
    """The frames of a message: its header, and its body where it has one."""
    kind = type(message)
    fields: dict[str, Any] = {"kind": _NAMES[kind]}
    for field in _CHECKS[kind]:
        fields[field] = getattr(message, field)
    header = msgpack.packb(fields)
    return [header, body] if len(body) else [header]


def decode_up(frames: Sequence[Bytes]) -> tuple[Up, Bytes]:
    """What a peer sent to the server: a message and its body (empty where it has none)."""
    return typing.cast("tuple[Up, Bytes]", _decode(frames, _UP))


def decode_down(frames: Sequence[Bytes]) -> tuple[Down, Bytes]:
    """What the server sent to a peer."""
    return typing.cast("tuple[Down, Bytes]", _decode(frames, _DOWN))


def _decode(frames: Sequence[Bytes], kinds: dict[str, type]) -> tuple[Any, Bytes]:
    # Count, then size, then form, then meaning: nothing is read that the step before forbids.
    if not 1 <= len(frames) <= 2:
        raise ProtocolError(f"expected 1 or 2 frames, got {len(frames)}")
    header, body = frames[0], frames[1] if len(frames) == 2 else b""
    if len(header) > HEADER_BYTES_MAX:
        raise ProtocolError(f"header of {len(header)} bytes, expected at most {HEADER_BYTES_MAX}")
    fields = unpack(header)
    if type(fields) is not dict:
        raise ProtocolError(f"expected a map, got {type(fields).__name__}")
    name = fields.pop("kind", None)
    kind = kinds.get(name) if type(name) is str else None
    if kind is None:
        raise ProtocolError(f"unknown kind {_told(name)}")
    if kind in (Hello, Enrol) and fields.get("protocol") != PROTOCOL:
        raise VersionMismatch(fields.get("protocol"))
    if len(body) > _BODY_BYTES_MAX.get(kind, 0):
        most = _BODY_BYTES_MAX.get(kind, 0)
        raise ProtocolError(f"{name}: body of {len(body)} bytes, expected at most {most}")
    checks = _CHECKS[kind]
    if fields.keys() != checks.keys():
        came = ", ".join(map(_told, list(fields)[:8]))
        raise ProtocolError(f"{name}: fields {came}, expected {', '.join(checks)}")
    try:
        return kind(*[check(fields[field]) for field, check in checks.items()]), body
    except _Wrong as wrong:
        raise ProtocolError(f"{name}: {wrong}") from None


def _told(value: object) -> str:
    """A peer's value in our words. A container is only named: its depth is the peer's choice."""
    if isinstance(value, str | bytes):
        return repr(value[:32])
    if isinstance(value, int | float | None):
        return repr(value)[:32]
    return f"a {type(value).__name__}"


def unpack(data: Bytes) -> Any:
    """msgpack, with every length bounded. Raises ProtocolError."""
    try:
        return msgpack.unpackb(
            data,
            strict_map_key=True,
            max_str_len=2048,
            max_bin_len=0,
            max_array_len=2**14,
            max_map_len=32,
            max_ext_len=0,
        )
    # ValueError covers nearly all; the others were met by fuzzing, or are documented.
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"expected msgpack, got {type(error).__name__}") from None


def vector(body: Bytes) -> Vector:
    """The float32 numbers of a body whose length was checked. A copy only where they lie at an odd
    address, as small ones do: ZeroMQ gives a large message memory of its own, which is then ours.
    """
    v = np.frombuffer(body, np.float32)
    return v if v.flags.aligned else v.copy()


# --- manifests ---


def encode_manifest(manifest: Manifest) -> bytes:
    """[[name, [dim, ...]], ...]"""
    return typing.cast("bytes", msgpack.packb([[n, list(s)] for n, s in manifest.tensors]))


def digest(manifest: Bytes) -> str:
    """By which a manifest is known again: 64 bits of SHA-256."""
    return hashlib.sha256(manifest).hexdigest()[:16]


def decode_manifest(body: Bytes) -> Manifest:
    """The inverse. Raises ProtocolError."""
    tensors = unpack(body)
    if type(tensors) is not list:
        raise ProtocolError("expected a list of tensors")
    for tensor in tensors:
        match tensor:
            case [str(), [*dims]] if all(type(dim) is int and 0 <= dim < 2**40 for dim in dims):
                continue
        raise ProtocolError(f"expected [name, [dim, ...]], got {_told(tensor)}")
    return Manifest(tuple((name, tuple(dims)) for name, dims in tensors))


# --- checks, made from the annotations of the messages ---

Check = Callable[[Any], Any]


class _Wrong(Exception):
    """A field that is not what its annotation says."""


def _check(field: str, hint: Any) -> Check:
    within = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, within = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return _one_of(field, typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        (some,) = (arm for arm in typing.get_args(hint) if arm is not types.NoneType)
        check = _check(field, some)
        return lambda value: None if value is None else check(value)
    if origin is tuple:
        item = _check(field, typing.get_args(hint)[0])
        return _items(field, item, within or Within(0, math.inf))
    return _exactly(field, hint, within)


def _one_of(field: str, allowed: tuple[str, ...]) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not str or value not in allowed:
            raise _Wrong(f"{field} is {_told(value)}, expected one of {allowed}")
        return value

    return check


def _items(field: str, item: Check, within: Within) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list or not within.low <= len(value) <= within.high:
            raise _Wrong(f"{field}: expected a list of at most {within.high} items")
        return tuple(map(item, value))

    return check


def _exactly(field: str, kind: type, within: Within | None) -> Check:
    low, high = (within.low, within.high) if within is not None else (-math.inf, math.inf)

    def check(value: Any) -> Any:
        # Not isinstance: True is an int, and a peer must not choose.
        came = type(value)
        if came is not kind:
            raise _Wrong(f"{field} is a {came.__name__}, expected {kind.__name__}")
        if within is not None and not low <= value <= high:
            raise _Wrong(f"{field} is outside [{low}, {high}]")
        return value

    def check_text(value: Any) -> Any:
        if type(value) is not str:
            raise _Wrong(f"{field} is a {type(value).__name__}, expected str")
        if not low <= len(value) <= high:
            raise _Wrong(f"{field} is outside [{low}, {high}]")
        # It may come to stand in somebody's terminal, where some characters are commands.
        if not value.isprintable():
            raise _Wrong(f"{field} has characters that cannot be printed")
        return value

    return check_text if kind is str else check


def _name(kind: type) -> str:
    return kind.__name__.lower()


def _kinds(union: Any) -> dict[str, type]:
    return {_name(kind): kind for kind in typing.get_args(union)}


_UP, _DOWN = _kinds(Up), _kinds(Down)
_NAMES = {kind: name for name, kind in (_UP | _DOWN).items()}
# In the order of the fields.
_CHECKS: dict[type, dict[str, Check]] = {
    kind: {
        field: _check(field, hint)
        for field, hint in typing.get_type_hints(kind, include_extras=True).items()
    }
    for kind in {*_UP.values(), *_DOWN.values()}
}
