"""How many workers can there be? Real connections to one server, and simulated ones.

    python -m bench.scale

Connections: one process holds them all, each with a `Link` of its own, on one ROUTER socket that
connected so many times; it computes nothing, and each pulls and pushes d = 100 numbers without
pause. So the figures are those of a server that never waits. Cycles a second of all together; the
server's processor time a cycle, in microseconds; what it has resident, in MB, and of that what a
connection added, in KB.

Memory: what a server of LONG numbers a model took at its peak, with the default chain, beyond what
it had before its workers came, in models: all of it, and what of it is shared with them. More than
what `bound` says is an error.

Simulation: so many workers on synthetic:d=100 in one process that ends with it: seconds of
processor time to hire them, and for an answer, in microseconds; what it has resident. More than
BYTES_A_WORKER of it for each is an error.
"""

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
import uvloop
import zmq

from bench.throughput import FORK, heard, processor_seconds, start, work
from bench.wires import DEFAULT_WIDE, kardam, serving
from kardam.link import Action, Lease, Link, Say, Tell
from kardam.messages import Gradient
from kardam.protocol import decode_down, encode

D = 100
CHAINS = {"none": "none", "default": DEFAULT_WIDE}

# What a simulated worker may take: four generators of chance, a share of the data, two answers.
BYTES_A_WORKER = 16 * 1024

# Three chunks of a message, and a bit.
LONG = 3_200_000

# Seconds that a simulation may take: a hundred thousand workers take a minute on a busy machine.
SIMULATED = 300

# Seconds until thousands that connect at once have a model: two or three where nothing else runs.
ARRIVED = 60

# Seconds between two looks at what is due by the clock.
TICK = 0.5


# --- real connections ---


def connections(count: int, chain: str, seconds: float) -> dict[str, Any]:
    """One row: so many connections at work for so long."""
    with contextlib.ExitStack() as stack:
        hear, tell = FORK.Pipe(duplex=False)
        server = start(stack, _serve, count, CHAINS[chain], tell.send)
        bare, endpoint, tokens = heard(hear, "the server")
        start(stack, _crowd, endpoint, tokens, seconds, tell, server)
        told = heard(hear, "the crowd")
        held = resident(server)
    return {
        "connections": count,
        "chain": chain,
        "cycles": round(told["cycles"] / told["seconds"], 1),
        "server_us": round(1e6 * told["server"] / told["cycles"], 1),
        "server_mb": round(held / 1e6, 1),
        "kb_a_connection": round((held - bare) / 1e3 / count, 1),
    }


def resident(pid: int) -> int:
    """Bytes that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _serve(count: int, filter: str, ready: Callable[[Any], None]) -> None:
    async def forever() -> None:
        async with serving(D, count, filter) as (_, (endpoint, tokens, _)):
            ready((resident(os.getpid()), endpoint, tokens))
            await asyncio.Event().wait()

    uvloop.run(forever())


class Crowd:
    """Very many workers on one socket: a ROUTER that connects once for each, under a name."""

    def __init__(self, endpoint: str, tokens: list[str], context: zmq.Context[Any]) -> None:
        self.cycles = 0
        self._socket = context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._links: dict[bytes, Link] = {}
        self._g = np.random.default_rng(0).standard_normal(D, np.float32)
        for index, token in enumerate(tokens):
            name = f"{index}".encode()
            self._socket.set(zmq.CONNECT_ROUTING_ID, name)
            self._socket.connect(endpoint)
            self._links[name] = Link("worker", token, lambda: 1.0)

    def arrive(self) -> None:
        """Say hello, and wait until everybody has a model. Raises where they have none in time."""
        for name, link in self._links.items():
            self._do(name, link.connected(time.monotonic()))
            self._do(name, link.pull(time.monotonic()))
        waiting, until = len(self._links), time.monotonic() + ARRIVED
        while waiting > 0:
            waiting -= self.turn()
            if time.monotonic() > until:
                raise click.ClickException(f"{waiting:,} have no model after {ARRIVED} s")

    def turn(self) -> int:
        """Hear one message, if one comes soon; how many models it brought."""
        if not self._socket.poll(100):
            return 0
        name, *frames = self._socket.recv_multipart()
        message, body = decode_down(frames)
        leases = 0
        for action in self._links[name].receive(message, body, time.monotonic()):
            leases += isinstance(action, Tell) and isinstance(action.news, Lease)
            self._do(name, [action])
        return leases

    def tick(self) -> None:
        """Beat where it is time to."""
        for name, link in self._links.items():
            self._do(name, link.tick(time.monotonic()))

    def _do(self, name: bytes, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Say(message=message, body=body):
                    self._socket.send_multipart([name, *encode(message, body)])
                case Tell(news=Lease(ticket=ticket)):
                    self.cycles += 1
                    g = Gradient(0, ticket, self._g)
                    self._do(name, self._links[name].push(g, time.monotonic(), pull=True))
                case _:
                    pass


def _crowd(endpoint: str, tokens: list[str], seconds: float, tell: Connection, server: int) -> None:
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 64)
        crowd = Crowd(endpoint, tokens, context)
        crowd.arrive()
        crowd.cycles = 0
        begin = beat = now = time.monotonic()
        processor = processor_seconds(server)
        while now < begin + seconds:
            crowd.turn()
            now = time.monotonic()
            if now > beat + TICK:
                beat = now
                crowd.tick()
        tell.send(
            {
                "cycles": crowd.cycles,
                "seconds": now - begin,
                "server": processor_seconds(server) - processor,
            }
        )
        crowd._socket.close()


# --- memory ---


def memory(workers: int, way: str, seconds: float) -> dict[str, Any]:
    """One row: a server's memory with so many workers at work."""
    wire = kardam("memory", DEFAULT_WIDE, shares=way == "shared")
    with contextlib.ExitStack() as stack:
        hear, tell = FORK.Pipe(duplex=False)
        server = start(stack, _fresh, workers, way == "shared", tell.send)
        where, before, budget = heard(hear, "the server")
        meeting = FORK.Barrier(workers)
        for index in range(workers):
            start(stack, work, wire, where, index, LONG, meeting, seconds, tell, server)
        for _ in range(workers):
            heard(hear, "a worker")
        after = status(server)
    own, shared = ((after[k] - before[k]) / (4 * LONG) for k in ("VmHWM", "RssShmem"))
    most = bound(workers, way, budget / (4 * LONG))
    if own > most:
        raise click.ClickException(
            f"{workers} workers by {way} take {own:.1f} models, expected at most {most:.1f}"
        )
    row = {"workers": workers, "way": way, "models": round(own, 1), "shared": round(shared, 1)}
    return {**row, "bound": round(most, 1)}


def bound(workers: int, way: str, budget: float) -> float:
    """Models that a server may have beyond its own: two being made or judged, and the one before;
    each version that somebody is still being sent, or reads; and gradients, of which some are under
    way (`budget`), or each worker has a slot.
    """
    return 3 + workers + (workers if way == "shared" else budget)


def status(pid: int) -> dict[str, int]:
    """Bytes by the kernel's names: VmHWM is the peak of all, RssShmem what is shared now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return {name: 1024 * int(found[name][0]) for name in ("VmHWM", "RssShmem")}


def settled() -> dict[str, int]:
    """This process's own status, once what it has no more use for is given back, and the peak
    forgotten: making a filter ready takes memory, too.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status(os.getpid())


def _fresh(workers: int, shares: bool, ready: Callable[[Any], None]) -> None:
    async def forever() -> None:
        async with serving(LONG, workers, DEFAULT_WIDE, shares) as (server, where):
            ready((where, settled(), server.sessions.exchange.uploads.budget))
            await asyncio.Event().wait()

    uvloop.run(forever())


# --- simulated ones ---


def simulated(count: int, chain: str, answers: int) -> dict[str, Any]:
    """One row: so many workers in virtual time."""
    with contextlib.ExitStack() as stack:
        hear, tell = FORK.Pipe(duplex=False)
        start(stack, _simulate, count, CHAINS[chain], answers, tell)
        row: dict[str, Any] = heard(hear, "the simulation", SIMULATED)
    if row["mb"] * 1e6 > BYTES_A_WORKER * count + row["bare_mb"] * 1e6:
        raise click.ClickException(
            f"{count:,} simulated workers take {row['mb']:,.0f} MB, expected at most"
            f" {BYTES_A_WORKER:,} bytes each"
        )
    return row


def _simulate(count: int, filter: str, answers: int, tell: Connection) -> None:
    import torch

    from kardam.recipe import Recipe
    from workers.crew import crew
    from workers.objective import Network
    from workers.simulation import hire, secrets, simulate
    from workers.tasks import load_task

    torch.set_num_threads(1)
    network = Network(load_task(f"synthetic:d={D},examples={max(3000, count)}", 0))
    bare, begin = resident(os.getpid()), time.process_time()
    workers = hire(crew(n=count), network, seed=0)
    hired = time.process_time()
    recipe = Recipe.of(count, filter=filter)
    descent = recipe.descent(network.x, chance=secrets(0))
    for _ in itertools.islice(simulate(descent, workers), answers):
        pass
    tell.send(
        {
            "workers": count,
            "chain": "none" if filter == "none" else "default",
            "answers": answers,
            "hire_seconds": round(hired - begin, 1),
            "answer_us": round(1e6 * (time.process_time() - hired) / answers, 1),
            "bare_mb": round(bare / 1e6, 1),
            "mb": round(resident(os.getpid()) / 1e6, 1),
        }
    )


# --- tables ---


def table(heads: list[str], rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads)]
    lines += [[f"{v:,}" if not isinstance(v, str) else v for v in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command()
@click.option("--connections", "counts", type=int, multiple=True, help="[10, 100, 1000, 5000]")
@click.option("--workers", "crowds", type=int, multiple=True, help="Simulated. [10^4, 10^5]")
@click.option("--chain", "chains", type=click.Choice([*CHAINS]), multiple=True, help="[both]")
@click.option("--seconds", default=3.0, show_default=True, help="Of each row of connections.")
@click.option("--answers", default=20_000, show_default=True, help="Of each simulation.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/scale.json"))
def main(
    counts: tuple[int, ...],
    crowds: tuple[int, ...],
    chains: tuple[str, ...],
    seconds: float,
    answers: int,
    out: Path,
) -> None:
    """Cycles a second and memory against the number of workers, connected and simulated."""
    chains = chains or tuple(CHAINS)
    real = [
        connections(n, chain, seconds) for chain in chains for n in counts or (10, 100, 1000, 5000)
    ]
    heads = ["connections", "chain", "cycles/s", "server, µs a cycle", "server, MB"]
    print(table([*heads, "KB a connection"], real), flush=True)
    held = [memory(n, way, seconds) for n in (2, 8) for way in ("tcp", "shared")]
    print("\n" + table(["workers", "way", "models", "of them shared", "at most"], held), flush=True)
    virtual = [simulated(n, chain, answers) for chain in chains for n in crowds or (10**4, 10**5)]
    heads = ["simulated", "chain", "answers", "s to hire", "µs an answer", "MB before", "MB"]
    print("\n" + table(heads, virtual))
    out.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": platform.platform(), "connections": real, "memory": held}
    told["simulated"] = virtual
    out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
