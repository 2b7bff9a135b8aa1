"""Whatever comes decodes to a message or raises the one error; what we say, we understand."""

import contextlib
import dataclasses
import math
import typing
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.grammar import fuzz
from kardam.messages import (
    Beat,
    Down,
    Enrol,
    Grant,
    Hello,
    Judged,
    Manifest,
    Message,
    Part,
    Pull,
    Push,
    Up,
    Within,
)
from kardam.protocol import (
    CHUNK_BYTES,
    HEADER_BYTES_MAX,
    PROTOCOL,
    ProtocolError,
    VersionMismatch,
    decode_down,
    decode_manifest,
    decode_up,
    encode,
    encode_manifest,
)

UP, DOWN = typing.get_args(Up), typing.get_args(Down)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """What a field with this annotation may be."""
    if typing.get_origin(hint) is typing.Annotated:
        kind, within = typing.get_args(hint)
        assert isinstance(within, Within)
        low, high = within.low, within.high
        if kind is int:
            return st.integers(int(low), int(high))
        if kind is float:
            return st.floats(low, high)
        if kind is str:
            printable = st.characters().filter(str.isprintable)
            return st.text(printable, min_size=int(low), max_size=int(high))
        item = values(typing.get_args(kind)[0])
        return st.lists(item, min_size=int(low), max_size=int(high)).map(tuple)
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if type(None) in (arms := typing.get_args(hint)):
        return st.none() | values(next(arm for arm in arms if arm is not type(None)))
    return {bool: st.booleans(), float: st.floats()}[hint]


def messages(kind: type) -> st.SearchStrategy[Message]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fixed = {"protocol": st.just(PROTOCOL)} if "protocol" in hints else {}
    return st.builds(kind, **{f: values(h) for f, h in hints.items()} | fixed)


up_messages = st.one_of([messages(kind) for kind in UP])
down_messages = st.one_of([messages(kind) for kind in DOWN])


def header(**fields: Any) -> bytes:
    return bytes(msgpack.packb(fields))


@given(up_messages)
def test_what_a_peer_says_the_server_understands(message: Up) -> None:
    decoded, body = decode_up(encode(message))
    assert repr(decoded) == repr(message)  # repr, since NaN is not itself
    assert len(body) == 0


@given(down_messages)
def test_what_the_server_says_a_peer_understands(message: Down) -> None:
    decoded, _ = decode_down(encode(message))
    assert repr(decoded) == repr(message)


@given(st.integers(0, 10), st.binary(min_size=1, max_size=64))
def test_a_body_arrives_as_it_was_sent(index: int, body: bytes) -> None:
    for decode in (decode_up, decode_down):
        message, got = decode(encode(Part(1, index), body))
        assert (message, bytes(got)) == (Part(1, index), body)


@given(down_messages)
def test_no_header_is_longer_than_the_limit(message: Down) -> None:
    assert len(encode(message)[0]) <= HEADER_BYTES_MAX


# --- adversaries ---

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_any_frames_decode_or_raise_the_one_error(frames: list[bytes]) -> None:
    for decode in (decode_up, decode_down):
        with contextlib.suppress(ProtocolError):
            decode(frames)


@given(anything, st.binary(max_size=8))
def test_any_msgpack_decodes_or_raises_the_one_error(value: Any, body: bytes) -> None:
    for decode in (decode_up, decode_down):
        with contextlib.suppress(ProtocolError):
            decode([msgpack.packb(value), body])


@given(up_messages, st.data())
def test_a_true_message_with_one_byte_changed_decodes_or_raises_the_one_error(
    message: Up, data: st.DataObject
) -> None:
    frame = bytearray(encode(message)[0])
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        decode_up([bytes(frame[: data.draw(st.integers(0, len(frame)))])])


@given(up_messages, anything, st.data())
def test_a_field_that_is_not_what_it_must_be_is_refused_or_valid(
    message: Up, value: Any, data: st.DataObject
) -> None:
    fields = dataclasses.asdict(message) | {"kind": type(message).__name__.lower()}
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    try:
        decoded, _ = decode_up([msgpack.packb(fields)])
    except ProtocolError:
        return
    # It got through: then it is a message that we could have sent.
    assert repr(decode_up(encode(decoded))[0]) == repr(decoded)


@given(up_messages, st.binary(max_size=4), anything)
def test_a_field_too_many_is_refused_whatever_its_name(
    message: Up, name: bytes, value: Any
) -> None:
    fields = dataclasses.asdict(message) | {"kind": type(message).__name__.lower(), name: value}
    with pytest.raises(ProtocolError):
        decode_up([msgpack.packb(fields)])


@pytest.mark.parametrize("field", ["kind", "role", "protocol", "state"])
def test_no_depth_of_nesting_is_more_than_a_protocol_error(field: str) -> None:
    kind = "beat" if field == "state" else "hello"
    start = b"\x82" + msgpack.packb("kind") + msgpack.packb(kind) + msgpack.packb(field)
    if field == "kind":
        start = b"\x81" + msgpack.packb("kind")
    for depth in (10, 900, 1010, 3000):
        with pytest.raises(ProtocolError):
            decode_up([start + b"\x91" * depth + b"\xc0"])


@pytest.mark.parametrize("label", ["\x1b[2J", "two\nlines", "\x07", "a\u202eb"])
def test_what_could_command_a_terminal_is_no_label(label: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be printed"):
        decode_up(encode(Enrol(PROTOCOL, "", label, False)))


HELLO = {
    "kind": "hello",
    "protocol": PROTOCOL,
    "package": "",
    "role": "worker",
    "token": "",
    "label": "",
    "byzantine": False,
    "holds": [],
    "digest": "",
    "memory": "",
}
PUSH = {
    "kind": "push",
    "ticket": 1,
    "growth": 1.0,
    "since": 0,
    "loss": 0.5,
    "examples": 32,
    "have": None,
    "shared": False,
}


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([], id="no frame"),
        pytest.param([b"", b"", b""], id="three frames"),
        pytest.param([b""], id="empty"),
        pytest.param([b"\xc1"], id="a reserved byte"),
        pytest.param([b"\xdd\xff\xff\xff\xff"], id="an array of four thousand million"),
        pytest.param([b"\xc6\xff\xff\xff\xff"], id="a bin of four gigabytes"),
        pytest.param([b"\x91" * 4000], id="four thousand deep"),
        pytest.param([b"\xd6\xff\x00\x00\x00\x00"], id="a time stamp"),
        pytest.param([header(**PUSH) + b"\x00"], id="something after the end"),
        pytest.param([b"\x81\x91\x01\x01"], id="a list as a key"),
        pytest.param([header(**PUSH) + b" " * HEADER_BYTES_MAX], id="a long header"),
        pytest.param([msgpack.packb([1, 2])], id="not a map"),
        pytest.param([header(kind="nonsense")], id="an unknown kind"),
        pytest.param([header(kind=7)], id="a kind that is no text"),
        pytest.param([header(kind="grant", ticket=1)], id="what only servers say"),
        pytest.param([header(**PUSH, extra=1)], id="a field too many"),
        pytest.param([header(kind="push", ticket=1)], id="fields too few"),
        pytest.param([header(**{**PUSH, "ticket": True})], id="true is not one"),
        pytest.param([header(**{**PUSH, "ticket": 1.0})], id="1.0 is not one"),
        pytest.param([header(**{**PUSH, "ticket": -1})], id="a number out of range"),
        pytest.param([header(**{**PUSH, "growth": -1.0})], id="a negative growth"),
        pytest.param([header(**{**PUSH, "growth": math.nan})], id="a growth that is no number"),
        pytest.param([header(**PUSH), b"x" * (CHUNK_BYTES + 1)], id="a body over the limit"),
        pytest.param([header(kind="pull", have=0), b"x"], id="a body where there is none"),
        pytest.param([header(**{**HELLO, "role": "boss"})], id="a word not in the list"),
    ],
)
def test_what_is_no_message_raises_the_one_error(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode_up(frames)


@pytest.mark.parametrize("theirs", [0, PROTOCOL + 1, None, "1"])
def test_another_protocol_is_told_apart_whatever_else_it_says(theirs: Any) -> None:
    with pytest.raises(VersionMismatch, match=f"expected protocol {PROTOCOL}, got {theirs!r}"):
        decode_up([header(kind="hello", protocol=theirs, new_field=1)])


def test_an_error_says_what_was_expected_and_what_came() -> None:
    with pytest.raises(ProtocolError, match=r"push: ticket is a bool, expected int"):
        decode_up([header(**{**PUSH, "ticket": True})])
    with pytest.raises(ProtocolError, match=r"hello: role is 'boss', expected one of \('worker'"):
        decode_up([header(**{**HELLO, "role": "boss"})])


# --- manifests ---

names = st.text(min_size=1, max_size=20)
shapes = st.lists(st.integers(0, 50), max_size=4).map(tuple)


@given(st.lists(st.tuples(names, shapes), max_size=6).map(tuple))
def test_a_manifest_survives_the_wire(tensors: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    assert decode_manifest(encode_manifest(Manifest(tensors))) == Manifest(tensors)


@given(anything)
def test_what_is_no_manifest_raises_the_one_error(value: Any) -> None:
    with contextlib.suppress(ProtocolError):
        manifest = decode_manifest(msgpack.packb(value))
        assert manifest.d >= 0


def test_a_manifest_knows_where_each_tensor_lies() -> None:
    manifest = Manifest((("a", (2, 3)), ("b", ()), ("c", (4,))))
    assert manifest.d == 11
    assert manifest.places() == [slice(0, 6), slice(6, 7), slice(7, 11)]


def test_encoding_names_its_kind() -> None:
    assert msgpack.unpackb(encode(Grant(7))[0]) == {"kind": "grant", "ticket": 7}
    assert [len(encode(m)) for m in (Pull(-1), Beat(), Judged(1, True, "", 2, False, None, 0))] == [
        1
    ] * 3
    assert isinstance(decode_up(encode(Push(1, None, None, 0.0, 1, None)))[0], Push)
    assert isinstance(decode_up(encode(Hello(PROTOCOL, "", "worker", "", "", False, ())))[0], Hello)


def test_twenty_thousand_messages_of_a_grammar_fuzzer_decode_or_raise_the_one_error() -> None:
    came = fuzz(20_000, seed=1)  # a million: python -m bench.soak --messages 1000000
    assert min(came["message"], came["refused"]) > 1000
