"""Frames that an adversary would write who knows the protocol: true messages, spoiled by a little.

Drawn from the same annotations that the decoder checks. What comes of them may be a message or the
one ProtocolError; anything else is found. Never in here: a socket.
"""

import random
import struct
import typing
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgpack

from kardam.messages import Down, Manifest, Up, Within
from kardam.protocol import (
    PROTOCOL,
    ProtocolError,
    decode_down,
    decode_manifest,
    decode_up,
    encode_manifest,
)

KINDS: dict[str, type] = {
    kind.__name__.lower(): kind for union in (Up, Down) for kind in typing.get_args(union)
}
HINTS = {name: typing.get_type_hints(kind, include_extras=True) for name, kind in KINDS.items()}

EDGES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 1e308),
    *("", "x", "x" * 65, "x" * 3000, "\x1b[2J", "\x00", "é", "\ud7ff", b"", b"\xff" * 9),
    *([], [[]], [1, 2], [1] * 40, {}, {"kind": "hello"}, {"a": {"b": {}}}),
    *(msgpack.ExtType(1, b"x"), msgpack.ExtType(127, b"" * 5), msgpack.Timestamp(1, 2)),
)

# What a byte-level fuzzer finds by luck: lengths that are not there, and nesting.
BOMBS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\x91" * 5000,
    b"\x81\xa1a" * 1500,
    b"\xc1",
    b"",
)


class Grammar:
    """Messages by this seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def frames(self) -> list[bytes]:
        """What goes over the wire as one message."""
        chance = self._chance
        if chance.random() < 0.02:
            return [chance.choice(BOMBS)] * chance.randint(1, 3)
        kind = chance.choice(list(KINDS))
        fields: dict[Any, Any] = {"kind": kind}
        fields |= {name: self._value(hint) for name, hint in HINTS[kind].items()}
        if "protocol" in fields:
            fields["protocol"] = PROTOCOL
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            self._spoil(fields)
        data = bytes(msgpack.packb(fields))
        if chance.random() < 0.2:
            data = self._scratch(data)
        bodies = [chance.randbytes(chance.choice((0, 1, 4, 12, 400))) for _ in range(4)]
        return [data, *bodies[: chance.choice((0, 0, 0, 1, 1, 2, 4))]]

    def _value(self, hint: Any) -> Any:
        """What this annotation allows."""
        chance = self._chance
        if typing.get_origin(hint) is typing.Annotated:
            kind, within = typing.get_args(hint)
            assert isinstance(within, Within)
            if kind is int:
                return chance.randint(int(within.low), int(within.high))
            if kind is float:
                return chance.choice((within.low, min(within.high, 1e300), 1.0))
            if kind is str:
                return "w" * chance.randint(int(within.low), int(within.high))
            item = typing.get_args(kind)[0]
            return [self._value(item) for _ in range(chance.randint(0, int(within.high)))]
        if typing.get_origin(hint) is typing.Literal:
            return chance.choice(typing.get_args(hint))
        if type(None) in (arms := typing.get_args(hint)):
            some = next(arm for arm in arms if arm is not type(None))
            return None if chance.random() < 0.5 else self._value(some)
        return {bool: True, float: chance.random()}[hint]

    def _spoil(self, fields: dict[Any, Any]) -> None:
        chance = self._chance
        name = chance.choice(list(fields) or ["kind"])
        match chance.randint(0, 4):
            case 0:
                fields.pop(name, None)
            case 1:
                fields[chance.choice(("extra", "", "kind", "x" * 40))] = chance.choice(EDGES)
            case 2:
                fields[name] = [fields.get(name)]
            case _:
                fields[name] = chance.choice(EDGES)

    def _scratch(self, data: bytes) -> bytes:
        """A few bytes of it, changed, lost or too many."""
        chance, spoiled = self._chance, bytearray(data)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(spoiled) + 1)
            match chance.randint(0, 3):
                case 0:
                    del spoiled[at:]
                case 1:
                    spoiled[at:at] = chance.randbytes(chance.randint(1, 9))
                case 2:
                    spoiled[at : at + 9] = struct.pack(">BQ", 0xCF, chance.getrandbits(64))
                case _:
                    spoiled[at : at + 1] = bytes([chance.randrange(256)])
        return bytes(spoiled)


def outcome(frames: Sequence[bytes]) -> str:
    """What both decoders make of it: `message` or `refused`. Raises whatever else comes out."""
    understood = 0
    for decode in (decode_up, decode_down):
        try:
            decode(frames)
            understood += 1
        except ProtocolError as error:
            str(error)  # it is to be told, too
    try:
        manifest = decode_manifest(frames[-1])
    except ProtocolError:
        pass
    else:
        assert decode_manifest(encode_manifest(manifest)) == Manifest(manifest.tensors)
    return "message" if understood else "refused"


def fuzz(messages: int, seed: int = 0) -> Counter[str]:
    """So many of them: how many were messages, and how many were refused."""
    grammar = Grammar(seed)
    return Counter(outcome(grammar.frames()) for _ in range(messages))
