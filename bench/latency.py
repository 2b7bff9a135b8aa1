"""How long does anybody wait for a server that others keep busy?

    python -m bench.latency

Each row is one server and its peers in processes of their own: `huge` workers that push and pull d
numbers without pause, one process each, and, where it says so, a reader that takes one chunk of a
model in SLOW seconds. Beside them, always, MANY small peers that ask for a sign of life now and
then, and a puller that asks for the newest model PULLS times a second. In milliseconds, at the
median and the 99th percentile:

    loop      how much later than asked for the event loop woke up, in the server, SAMPLES a second
    verdict   from the last byte of a gradient, read from the socket or told to be in its slot, to
              the verdict handed to the socket, in the server
    answer    a small peer's question and its answer
    pull      the puller's question and the last byte of its model, over TCP

Fewer than 100 of one kind have no 99th percentile: then it is the longest.
"""

import asyncio
import contextlib
import json
import platform
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import click
import numpy as np
import uvloop
import zmq

from bench.scale import table
from bench.throughput import FORK, heard, start
from bench.wires import DEFAULT_WIDE, gradients, kardam, serving
from kardam.client import Client
from kardam.exchange import Judge
from kardam.link import Link, Say
from kardam.messages import Beat, Pull
from kardam.protocol import encode
from kardam.server import Server

SAMPLES = 200
MANY = 50
QUESTIONS = 2.0
PULLS = 5.0
SLOW = 0.5

# Cycles of every huge worker before anything is measured.
WARM = 2


def row(d: int, huge: int, way: str, slow: bool, seconds: float) -> dict[str, Any]:
    """One server and its peers for so long."""
    shares = way == "shared"
    worker = kardam("huge", DEFAULT_WIDE, shares=shares)
    with contextlib.ExitStack() as stack:
        go = FORK.Event()
        hear, tell = FORK.Pipe(duplex=False)
        start(stack, _serve, d, huge, shares, seconds, go, tell)
        where, evaluator, operators = heard(hear, "the server")
        for index in range(huge):
            start(stack, _work, worker, where, index, d, tell)
        if slow:
            start(stack, _crawl, where[0], evaluator, tell)
        start(stack, _ask, where[0], operators, seconds, go, tell)
        start(stack, _pull, where[0], evaluator, seconds, go, tell)
        for _ in range(huge + slow + 2):
            heard(hear, "a peer")
        go.set()
        waits: dict[str, list[float]] = {}
        for _ in range(3):
            waits |= heard(hear, "a peer")
    found: dict[str, Any] = {"d": d, "huge": huge, "way": way, "slow": "one" if slow else "none"}
    found["verdicts"] = len(waits["verdict"])
    for kind in ("loop", "verdict", "answer", "pull"):
        found[kind] = told(waits[kind])
    return found


def told(seconds: list[float]) -> str:
    """The median and the 99th percentile, in milliseconds."""
    if not seconds:
        return "-"
    rank = 0.99 if len(seconds) >= 100 else 1.0
    half, most = np.quantile(seconds, [0.5, rank])
    return f"{1e3 * half:.2f} / {1e3 * most:.2f}"


# --- the server ---


def _serve(d: int, huge: int, shares: bool, seconds: float, go: Event, tell: Connection) -> None:
    async def run() -> None:
        async with serving(d, huge, DEFAULT_WIDE, shares) as (server, where):
            waits: dict[str, list[float]] = {"loop": [], "verdict": []}
            tokens = server.sessions.tokens
            tell.send((where, tokens.evaluator, tokens.operator))
            while not go.is_set():  # noqa: ASYNC110  # another process sets it
                await asyncio.sleep(0.01)
            watch(server, waits["verdict"])
            # Not the loop's own clock: uvloop's has milliseconds, and stands still for a callback.
            end = time.perf_counter() + seconds
            while (due := time.perf_counter() + 1 / SAMPLES) < end:
                await asyncio.sleep(1 / SAMPLES)
                waits["loop"].append(max(0.0, time.perf_counter() - due))
            tell.send(waits)
            await asyncio.Event().wait()

    uvloop.run(run())


def watch(server: Server, waits: list[float]) -> None:
    """Note from now on how long it is from a gradient's last byte to its verdict's sending."""
    receive, send = server.sessions.receive, server._router.send
    heard_at = 0.0
    judged = False

    def received(*given: Any) -> Any:
        nonlocal heard_at, judged
        heard_at = time.perf_counter()
        effects = receive(*given)
        judged = any(isinstance(effect, Judge) for effect in effects)
        return effects

    def sent(*given: Any) -> None:
        nonlocal judged
        send(*given)
        if judged:
            waits.append(time.perf_counter() - heard_at)
            judged = False

    server.sessions.receive = received  # type: ignore[assignment, method-assign]
    server._router.send = sent  # type: ignore[assignment, method-assign]


# --- its peers ---


def _work(worker: Any, where: Any, index: int, d: int, tell: Connection) -> None:
    with worker.work(where, index, d, gradients(index, d)) as cycle:
        for _ in range(WARM):
            cycle()
        tell.send("at work")
        while True:
            cycle()


def _pull(endpoint: str, token: str, seconds: float, go: Event, tell: Connection) -> None:
    waits = []
    with Client(endpoint, "evaluator", token=token) as client:
        tell.send("there")
        go.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            client.pull()
            waits.append(time.monotonic() - began)
            time.sleep(1 / PULLS)
    tell.send({"pull": waits})


def _ask(endpoint: str, token: str, seconds: float, go: Event, tell: Connection) -> None:
    """MANY peers on one socket (see bench.scale), each of whom beats at its own moments."""
    waits: list[float] = []
    asked: dict[bytes, float] = {}
    with zmq.Context() as context, context.socket(zmq.ROUTER) as peers:
        peers.set(zmq.LINGER, 0)
        names = [f"{index}".encode() for index in range(MANY)]
        for name in names:
            peers.set(zmq.CONNECT_ROUTING_ID, name)
            peers.connect(endpoint)
            for frames in _hello(token, "operator"):
                peers.send_multipart([name, *frames])
        for _ in names:
            peers.recv_multipart()  # their welcomes
        tell.send("there")
        go.wait()
        turns = _turns(names, seconds)
        due, name = next(turns)
        begin = time.monotonic()
        while True:
            now = time.monotonic() - begin
            if peers.poll(max(0, int(1000 * (due - now)))):
                who = peers.recv_multipart()[0]
                waits.append(time.monotonic() - asked.pop(who))
            elif name not in asked:
                asked[name] = time.monotonic()
                peers.send_multipart([name, *encode(Beat())])
                try:
                    due, name = next(turns)
                except StopIteration:
                    break
    tell.send({"answer": waits})


def _turns(names: list[bytes], seconds: float) -> Iterator[tuple[float, bytes]]:
    """When, and who."""
    chance, now, turn = np.random.default_rng(0), 0.0, 0
    while now < seconds:
        yield now, names[turn % len(names)]
        now, turn = now + chance.exponential(1 / (QUESTIONS * len(names))), turn + 1


def _crawl(endpoint: str, token: str, tell: Connection) -> None:
    """Ask for a model, and take a chunk of it in SLOW seconds; again and again."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.set(zmq.LINGER, 0)
        peer.set(zmq.RCVHWM, 1)
        peer.set(zmq.RCVBUF, 2**16)
        peer.connect(endpoint)
        for frames in _hello(token, "evaluator"):
            peer.send_multipart(frames)
        tell.send("there")
        while True:
            peer.send_multipart(encode(Pull(-1)))
            for _ in range(10):
                if peer.poll(1000):
                    peer.recv_multipart()
                time.sleep(SLOW)


def _hello(token: str, role: Any) -> list[Any]:
    says = Link(role, token, lambda: 1.0).connected(0.0)
    return [encode(say.message) for say in says if isinstance(say, Say)]


@click.command()
@click.option("--d", "sizes", type=int, multiple=True, help="[default: 10^4, 10^6, 10^7]")
@click.option("--huge", default=4, show_default=True, help="Workers of d numbers.")
@click.option("--seconds", default=6.0, show_default=True, help="Of each row.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/latency.json"))
def main(sizes: tuple[int, ...], huge: int, seconds: float, out: Path) -> None:
    """Lag of the loop, last byte to verdict, answers and pulls, with huge workers and slow ones."""
    rows = []
    for d in sizes or (10**4, 10**6, 10**7):
        for way, slow in (("tcp", False), ("tcp", True), ("shared", False)):
            rows.append(row(d, huge, way, slow, seconds))
    heads = ["d", "huge", "way", "slow readers", "verdicts", "loop, ms", "verdict, ms"]
    print(table([*heads, "answer, ms", "pull, ms"], rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": platform.platform(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
