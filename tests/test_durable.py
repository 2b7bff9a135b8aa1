"""With --durable, no verdict that a worker was told is lost, and no model that it was lent,
whenever the server is killed.
"""

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from kardam import checkpoint, daemon, tape
from kardam.client import Client, Halted, enrol
from kardam.errors import Unwritable
from kardam.fingerprint import fingerprint
from kardam.messages import Gradient, Manifest, Verdict
from kardam.plan import Every, Plan, Until
from kardam.recipe import Recipe
from kardam.recording import Recording
from kardam.recovery import caught_up, descent_of
from kardam.replay import again
from kardam.retelling import lives, retell
from kardam.router import Router
from kardam.server import serve
from kardam.tape import Kept
from tests.test_run import SECONDS, lines, until
from tests.test_server import ANY_PORT, answer, on_both_loops, sessions, worker

HOUSE = Path(__file__).parents[1]
D = 500


@on_both_loops
async def test_nothing_leaves_before_that_is_settled_which_it_tells_of() -> None:
    done: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        send = Router.send

        def sent(self: Router, *its: Any) -> None:
            done.append("sent")
            send(self, *its)

        patch.setattr(Router, "send", sent)
        house = sessions()
        house.descent.hear = lambda event, verdict: done.append("heard")
        async with (
            serve(house, ANY_PORT, settle=lambda: done.append("settled")) as server,
            worker(server) as client,
        ):
            for _ in range(20):
                await asyncio.to_thread(answer, client, np.ones(3, np.float32))
    assert done.count("heard") == 40  # lent and received
    open_ = False
    for what in done:
        open_ = what == "heard" or (open_ and what != "settled")
        assert not (what == "sent" and open_)


@on_both_loops
async def test_what_can_not_be_settled_never_leaves_and_ends_the_server() -> None:
    told: list[str] = []

    def full() -> None:
        if told:
            raise Unwritable("the disk is full")

    def judged(verdict: Verdict, took: float) -> None:
        told.append("judged")

    async def run() -> None:
        async with (
            serve(sessions(), ANY_PORT, judged, settle=full) as server,
            worker(server, patience=2.0) as client,
        ):
            told.append(await asyncio.to_thread(answer, client, np.ones(3, np.float32)))

    with pytest.raises(Unwritable, match="the disk is full"):
        await run()
    assert told == ["judged"]


def plan_in(folder: str, **rest: Any) -> Plan:
    return Plan(
        recipe=Recipe.of(n=4, preset="none"),
        bind=ANY_PORT,
        until=Until(),
        every=Every(updates=2),
        keep=1,
        seed=0,
        task="",
        split="iid",
        experiment="",
        out=Path(folder) / "run",
        durable=True,
        **rest,
    )


MANIFEST, X = Manifest((("x", (3,)),)), np.zeros(3, np.float32)


@on_both_loops
async def test_a_disk_that_is_full_ends_a_durable_run_with_its_own_code() -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:

        async def run() -> None:
            async with daemon.running(plan_in(folder), MANIFEST, X) as one:
                patch.setattr("os.fdatasync", full)
                async with worker(one.server, patience=2.0) as client:
                    await asyncio.to_thread(client.pull)

        with pytest.raises(Unwritable, match=r"000001\.tape: No space left on device") as raised:
            await run()
        assert raised.value.code == 7


@on_both_loops
async def test_a_durable_run_keeps_what_it_needs_to_go_on_and_no_more() -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording.__init__, "__defaults__", (1,))  # a segment an event
        plan = plan_in(folder)
        out = plan.out
        x: list[bytes] = []
        for life in (1, 2):
            async with daemon.running(plan, MANIFEST, X) as one:
                descent = one.server.sessions.descent
                assert [descent.model.x.tobytes()] == (x or [X.tobytes()])
                async with worker(one.server) as client, worker(one.server, 1) as other:
                    for _ in range(5):
                        # A checkpoint between a loan and its answer.
                        lent = await asyncio.to_thread(other.pull)
                        await asyncio.to_thread(answer, client, np.ones(3, np.float32))
                        one.scribe.look(one.server.now)
                        # As the loop of `Run.wait` has it: a look takes in what a thread has done.
                        while (writing := one.scribe._writing) is not None:
                            await writing
                            one.scribe.look(one.server.now)
                        g = Gradient(0, lent.ticket, np.full(3, 2, np.float32))
                        assert (await asyncio.to_thread(other.push, g)).admitted
                    await asyncio.to_thread(answer, client, np.full(3, life, np.float32))
                x = [descent.model.x.tobytes()]
                # It ends here without a word: what came after its last checkpoint is on the disk.
            newest = checkpoint.newest(out / "checkpoints")
            assert newest is not None
            assert checkpoint.updates(newest) < descent.model.version
            left = [tape.number(path) for path in tape.segments(tape.lives(out)[-1])]
            assert 0 < left[0] == min(left)
            assert left[0] > 1
            plan = plan_in(folder, checkpoint=newest, in_place=True)
        assert newest is not None
        state, retold = caught_up(out, checkpoint.restore(newest))
        assert state["sessions"]["descent"]["x"].tobytes() == x[0]
        assert len(retold) == state["sessions"]["descent"]["version"] - checkpoint.updates(newest)
        assert not tape.segments(tape.lives(out)[0])


# --- real processes, killed ---


class Seen(NamedTuple):
    """What a worker was told: verdicts by the gradients' fingerprints, and models by version."""

    verdicts: dict[str, bool]
    models: dict[int, str]


def work(
    endpoint: str, seen: Seen, seed: int, ending: threading.Event, together: threading.Barrier
) -> None:
    """Answer until it is over, through every restart; and leave together: with fewer than n - f
    there, nobody is lent the model that the last one waits for.
    """
    chance = np.random.default_rng(seed)
    token = enrol(endpoint, "", False, SECONDS).token
    with Client(endpoint, "worker", token=token, patience=SECONDS) as client:
        lease = client.pull()
        while not ending.is_set():
            seen.models[lease.model.version] = fingerprint(lease.model.x)
            g = chance.standard_normal(D).astype(np.float32)
            try:
                judged, lease = client.exchange(Gradient(0, lease.ticket, g))
            except Halted:
                break
            seen.verdicts[fingerprint(g)] = judged.admitted
        together.wait(SECONDS)


@contextmanager
def at_work(endpoint: str, count: int) -> Iterator[list[Seen]]:
    ending, together = threading.Event(), threading.Barrier(count)
    seen = [Seen({}, {}) for _ in range(count)]
    threads = [
        threading.Thread(target=work, args=(endpoint, its, seed, ending, together))
        for seed, its in enumerate(seen)
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ending.set()
        for thread in threads:
            thread.join()


@contextmanager
def serving(run: Path, endpoint: str) -> Iterator[None]:
    """The same command again and again; killed without a word at the end of the block."""
    words = ["serve", str(run.parent / "model.safetensors"), "--workers", "4", "--f", "1"]
    words += ["--bind", endpoint, "--out", str(run), "--resume", "auto", "--preset", "middle"]
    words += ["--record", "--durable", "--checkpoint-updates", "20", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "kardam", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=HOUSE,
    ) as server:  # fmt: skip
        try:
            lines(server, "kardam work")
            yield
        finally:
            server.kill()
            server.communicate(timeout=SECONDS)


def recorded(run: Path) -> Seen:
    """Everything that the recording comes to."""
    came = Seen({}, {})
    for life in lives(run):
        state = checkpoint.restore(life.start).state["sessions"]["descent"]
        descent = descent_of(life.recipe, state)
        came.models[descent.model.version] = fingerprint(descent.model.x)
        for told in tape.play(life.folder, life.mark):
            if not isinstance(told.event, Kept):
                verdict = again(descent, told.event)
                came.models[descent.model.version] = fingerprint(descent.model.x)
                if verdict is not None and told.fingerprint:
                    came.verdicts[told.fingerprint] = verdict.admitted
    return came


@pytest.mark.slow
def test_no_verdict_that_a_worker_was_told_is_lost_when_the_server_is_killed(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    save_file({"x": np.zeros(D, np.float32)}, tmp_path / "model.safetensors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as workers:
        seen: list[Seen] = []
        for turn in range(3):
            with serving(run, endpoint):
                seen = seen or workers.enter_context(at_work(endpoint, 3))
                before = [len(its.verdicts) for its in seen]
                until(lambda: all(len(s.verdicts) > b + 60 for s, b in zip(seen, before)))  # noqa: B023, B905
                if turn == 2:
                    workers.close()
    with serving(run, endpoint):
        pass  # it has put together what was left
    there = recorded(run)
    for its in seen:
        assert its.models.items() <= there.models.items()
        # What it was told of a gradient that was lost on the way is that nobody asked for it.
        assert {print_ for print_, admitted in its.verdicts.items() if admitted} <= {
            print_ for print_, admitted in there.verdicts.items() if admitted
        }
    lines_ = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    told = {line["fingerprint"]: line["admitted"] for line in lines_ if "fingerprint" in line}
    assert told == there.verdicts
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    x = checkpoint.load(newest / checkpoint.MODEL)[1]
    assert there.models[checkpoint.updates(newest)] == fingerprint(x)
    assert checkpoint.updates(newest) == max(there.models)
    came = retell(run, lives(run))
    assert came.untold == came.unwritten == 0
    assert came.verdicts == len(lines_)
