"""Keys as files: secrets are their owner's alone; verbs that leave them; and what is wrong with
one in a sentence.
"""

import json
import os
from pathlib import Path

import pytest

from kardam.errors import UsageError
from kardam.keys import Keys
from kardam.kits import SERVER, Folder, Kit, Pair, new_pair, pair_at, read_kit, visitors, write_kit
from kardam.ring import Entry
from tests.test_cli import Kardam, kardam

__all__ = ["kardam"]  # the fixture

ENDPOINT = "tcp://127.0.0.1:5555"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """As a server that ran has left it."""
    folder = Folder(tmp_path / "keys")
    folder.make(ENDPOINT)
    return folder


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# --- files ---


def test_what_holds_a_secret_is_for_its_owner_alone(folder: Folder, tmp_path: Path) -> None:
    mine = tmp_path / "deep" / "mine.json"
    assert pair_at(mine) == pair_at(mine)
    kit = tmp_path / "a.kit"
    write_kit(kit, Kit(ENDPOINT, "worker", Keys("0" * 64, *new_pair())))
    assert [mode(path) for path in (mine, kit, folder.path / "server.json")] == [0o600] * 3
    assert [mode(path) for path in (mine.parent, folder.path)] == [0o700] * 2


@pytest.mark.parametrize("others", [0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_not_used(tmp_path: Path, others: int) -> None:
    path = tmp_path / "mine.json"
    pair_at(path)
    path.chmod(others)
    with pytest.raises(UsageError, match=f"others may read it.*chmod 600 {path}"):
        pair_at(path)


def test_a_folder_that_others_may_write_to_lets_nobody_in(folder: Folder) -> None:
    folder.path.chmod(0o720)
    with pytest.raises(UsageError, match="others may write there, and so enrol: chmod go-w"):
        folder.make()


def test_a_servers_pair_is_made_once_and_is_there_before_its_folder(tmp_path: Path) -> None:
    first = Folder(tmp_path / "keys")
    pair = first.pair
    assert not first.path.exists()
    assert first.enrolled() == {}
    first.make()
    assert Folder(tmp_path / "keys").pair == pair


def test_who_is_enrolled_is_read_again_when_it_changes(folder: Folder) -> None:
    other = Folder(folder.path)
    key = new_pair().public
    assert folder.enrolled() == {}
    for role in ("worker", "operator"):
        other.enroll(key, Entry(role, "alice"))
        assert folder.enrolled() == {key: Entry(role, "alice")}
        other.revoke("alice")
        assert folder.enrolled() == {}


@pytest.mark.parametrize(
    "said", ["", "{", "[]", "{}", '{"role": "king"}', '{"role": "worker", "a": 1}']
)
def test_what_can_not_be_read_enrols_nobody(folder: Folder, said: str) -> None:
    good = new_pair().public
    folder.enroll(good, Entry("worker", "alice"))
    (folder.path / "enrolled" / f"{'0' * 64}.json").write_text(said)
    (folder.path / "enrolled" / "notes.txt").write_text("hello")
    assert list(folder.enrolled()) == [good]


def test_a_list_that_is_gone_strikes_nobody_out(folder: Folder) -> None:
    folder.enroll(new_pair().public, Entry("worker", "alice"))
    before = folder.enrolled()
    os.rename(folder.path / "enrolled", folder.path / "elsewhere")
    assert folder.enrolled() == before != {}


def test_a_kit_is_read_as_it_was_written(tmp_path: Path) -> None:
    kit = Kit(ENDPOINT, "operator", Keys("0" * 64, *new_pair()))
    write_kit(tmp_path / "a.kit", kit)
    assert read_kit(tmp_path / "a.kit") == kit
    with pytest.raises(UsageError, match="exists already"):
        write_kit(tmp_path / "a.kit", kit)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("hello", "expected a file of keys in JSON"),
        ("[]", "expected a kit"),
        ("{}", "expected a kit"),
        ('{"server": "00"}', "server: expected a public key of 64 hexadecimal digits, got '00'"),
    ],
)
def test_what_is_no_kit_is_said_so(tmp_path: Path, said: str, words: str) -> None:
    path = tmp_path / "a.kit"
    path.write_text(said)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=words):
        read_kit(path)


# --- where to go, and as whom ---


@pytest.fixture
def kit(tmp_path: Path) -> str:
    path = tmp_path / "a.kit"
    write_kit(path, Kit(ENDPOINT, "worker", Keys("0" * 64, "1" * 64, "2" * 64)))
    return str(path)


def test_an_endpoint_has_as_many_workers_as_are_asked_for_and_a_kit_one(
    tmp_path: Path, kit: str
) -> None:
    mine = tmp_path / "mine.json"
    assert visitors([ENDPOINT], 3, None, mine) == (ENDPOINT, [None] * 3)
    keys = Keys("0" * 64, "1" * 64, "2" * 64)
    assert visitors([kit, kit], 1, None, mine) == (ENDPOINT, [keys, keys])
    assert not mine.exists()
    endpoint, (held,) = visitors([ENDPOINT], 1, "9" * 64, mine)
    assert (endpoint, held) == (ENDPOINT, Keys("9" * 64, *pair_at(mine)))


def test_what_does_not_go_together_is_said_so(tmp_path: Path, kit: str) -> None:
    for where, count, server_key, words in (
        ([ENDPOINT, ENDPOINT], 1, None, "expected one endpoint, got 2"),
        ([ENDPOINT, "tcp://a:1"], 1, None, "expected kits for one server"),
        ([kit], 2, None, "--count 2: a key is one worker; give a kit for each"),
        ([ENDPOINT], 2, "9" * 64, "--count 2: a key is one worker"),
        ([kit], 1, "9" * 64, "expected a kit or --server-key, and not both"),
        (["no.kit"], 1, None, "expected an endpoint like tcp://127.0.0.1:5555, or a kit's file"),
        ([ENDPOINT], 1, "9", "--server-key: expected a public key of 64 hexadecimal digits"),
    ):
        with pytest.raises(UsageError, match=words):
            visitors(where, count, server_key, tmp_path / "mine.json")


# --- verbs ---


def test_one_command_makes_a_workers_kit(kardam: Kardam, folder: Folder, tmp_path: Path) -> None:
    code, out, err = kardam("keys", "kit", str(folder.path), str(tmp_path / "alice.kit"))
    assert (code, out) == (0, "")
    assert f"alice may come as worker to {ENDPOINT}" in err
    kit = read_kit(tmp_path / "alice.kit")
    assert (kit.endpoint, kit.keys.server) == (ENDPOINT, folder.pair.public)
    assert folder.enrolled() == {kit.keys.public: Entry("worker", "alice")}


def test_keys_are_made_enrolled_listed_and_revoked(
    kardam: Kardam, folder: Folder, tmp_path: Path
) -> None:
    mine, keys = tmp_path / "mine.json", str(folder.path)
    _, public, err = kardam("keys", "new", str(mine))
    assert public.strip() == pair_at(mine).public
    assert pair_at(mine).secret not in public + err
    assert kardam("keys", "new", str(mine))[1] == public
    assert (
        kardam("keys", "enroll", keys, public.strip(), "--name", "ops", "--role", "operator")[0]
        == 0
    )
    _, out, _ = kardam("keys", "list", keys, "--json")
    row = {"worker": None, "name": "ops", "role": "operator", "key": public.strip()}
    assert json.loads(out) == {"keys": [row]}
    assert public.strip() in kardam("keys", "list", keys)[1]
    assert kardam("keys", "revoke", keys, "ops")[0] == 0
    assert folder.enrolled() == {}


def test_a_runs_directory_stands_for_its_folder_of_keys(kardam: Kardam, folder: Folder) -> None:
    assert kardam("keys", "list", str(folder.path.parent)) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("enroll", "KEYS", "abc"),
            "KEY: expected a public key of 64 hexadecimal digits, got 'abc'",
        ),
        (("enroll", "KEYS", "A" * 64), "expected a public key"),
        (("enroll", "KEYS", "a" * 64, "--name", "a" * 41), "--name: expected 1 to 40 characters"),
        (("enroll", "KEYS", "a" * 64, "--name", "ops"), "--name: there is a 'ops' already"),
        (("enroll", "KEYS", "b" * 64), "this key is enrolled already, as operator 'ops'"),
        (("enroll", "nowhere", "a" * 64), "nowhere: no keys there"),
        (("revoke", "KEYS", "bob"), "'bob' is not enrolled"),
        (("list", "nowhere"), "nowhere: no keys there; expected a folder of kardam serve --keys"),
        (("list", "KEYS", "--run", "nowhere"), "--run nowhere: no such directory"),
        (("kit", "KEYS", "ops.kit"), "--name: there is a 'ops' already"),
    ],
)
def test_a_mistake_with_keys_is_one_sentence(
    kardam: Kardam,
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder.enroll("b" * 64, Entry("operator", "ops"))
    code, _, err = kardam("keys", *(str(folder.path) if w == "KEYS" else w for w in words))
    assert code == 2
    assert said in err
    assert not (tmp_path / "ops.kit").exists()


def test_no_kit_is_made_for_a_server_that_has_no_key_yet(
    kardam: Kardam, folder: Folder, tmp_path: Path
) -> None:
    (folder.path / SERVER).unlink()  # which is how an operator changes it
    code, _, err = kardam("keys", "kit", str(folder.path), str(tmp_path / "alice.kit"))
    assert (code, "server.json: not there" in err) == (2, True)
    assert not (tmp_path / "alice.kit").exists()
    assert Folder(folder.path).enrolled() == {}


def test_a_pair_is_drawn_and_never_twice_the_same() -> None:
    pairs = {new_pair() for _ in range(5)}
    assert len(pairs) == 5
    assert all(len(half) == 64 and int(half, 16) for pair in pairs for half in Pair(*pair))
