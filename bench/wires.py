"""The ways to move models and gradients that bench.throughput compares: how each serves and works.

A cycle is the same for all: pull the newest model of d float32 numbers into memory of one's own,
push a gradient, hear what became of it. Never in here: the clock.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
import zmq

from kardam import daemon
from kardam.client import Client
from kardam.messages import Gradient, Manifest, Vector
from kardam.recipe import Recipe
from kardam.records import Records
from kardam.server import Server
from kardam.server import serve as served
from kardam.sessions import Sessions
from kardam.shared import Layout, SharedDesk, SharedShelf, hand_over, taken_over

GAMMA = np.float32(1e-3)

# Seconds between two writes of the journal, as a run has them.
FLUSH = 0.25

# Who starts a Ray cluster, and who joins it, agree on these.
RAY_HERE: dict[str, Any] = {
    "namespace": "bench",
    "log_to_driver": False,
    "logging_level": "ERROR",
    "_node_ip_address": "127.0.0.1",
}

# The default chain, with bounds that nobody crosses: to be refused is cheaper, and would flatter.
DEFAULT_WIDE = (
    "growth:band=relative,c=1e30,exponent=0.5,span=25"
    "+consensus:far=1e30,out=1e30,apart=1e30,near=0,echo=0+throttle:factor=1e30+clip:factor=2"
)

# With f = 1 a filter wants four workers; those who never come are heard before the clock starts.
N_LEAST = 4

# One turn of a worker; whether its gradient was used.
Cycle = Callable[[], bool]


@dataclass(frozen=True)
class Wire:
    """A contestant. `serve(d, workers, ready)` serves until it is killed, once it has told `ready`
    where; `work(where, index, d)` is a worker's connection, which makes a cycle of a gradient.
    """

    name: str
    serve: Callable[[int, int, Callable[[Any], None]], None]
    work: Callable[[Any, int, int, list[Vector]], AbstractContextManager[Cycle]]


def gradients(index: int, d: int) -> list[Vector]:
    """What this worker computed beforehand: standard normal, in turn."""
    rng = np.random.default_rng([5, index])
    return [rng.standard_normal(d, np.float32) for _ in range(2)]


# --- ZeroMQ alone ---


def raw(chunk: int, update: bool, rides: bool = False) -> Wire:
    """ROUTER and DEALER, blocking, one thread a side, no headers: an empty message asks for the
    model, others are the gradient in chunks, received into its place. With `update`,
    x <- x - gamma g for each. Where the next pull `rides` on the push, as it does in kardam, the
    answer to a gradient is the model, and a cycle one journey instead of two.
    """

    def serve(d: int, workers: int, ready: Callable[[Any], None]) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.bind("tcp://127.0.0.1:0")
            ready(router.get_string(zmq.LAST_ENDPOINT))
            x = np.zeros(d, np.float32)
            places: dict[bytes, Vector] = {}
            received: dict[bytes, int] = {}
            while True:
                peer = router.recv()
                if peer not in places:
                    places[peer], received[peer] = np.empty(d, np.float32), 0
                g, at = places[peer], received[peer]
                came = router.recv_into(g.data.cast("B")[at:])
                received[peer] = (at + came) % g.nbytes
                whole = came > 0 and received[peer] == 0
                if whole and update:
                    # x is on its way to others, so there is a new one; g is ours.
                    np.multiply(g, GAMMA, out=g)
                    x = x - g
                if whole and not rides:
                    router.send_multipart([peer, b"!"])
                elif whole or came == 0:
                    for part in _parts(x, chunk):
                        router.send(peer, zmq.SNDMORE)
                        router.send(part, copy=False)

    @contextlib.contextmanager
    def work(where: Any, index: int, d: int, pool: list[Vector]) -> Iterator[Cycle]:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.connect(where)
            x = np.empty(d, np.float32)
            place = x.data.cast("B")
            turn = _turns(pool)

            def receive() -> None:
                at = 0
                while at < len(place):
                    at += dealer.recv_into(place[at:])

            def cycle() -> bool:
                if not rides:
                    dealer.send(b"")
                    receive()
                for part in _parts(next(turn), chunk):
                    dealer.send(part, copy=False)
                if rides:
                    receive()
                else:
                    dealer.recv()
                return True

            if rides:
                dealer.send(b"")
                receive()

            yield cycle

    size = "1 frame" if chunk >= 2**40 else f"{chunk >> 20} MiB"
    name = "raw" + "+update" * update + " riding" * rides
    return Wire(f"{name}, {size}", serve, work)


def _parts(v: Vector, chunk: int) -> Iterator[memoryview]:
    body = v.data.cast("B")
    return (body[at : at + chunk] for at in range(0, len(body), chunk))


def _turns(pool: list[Vector]) -> Iterator[Vector]:
    while True:
        yield from pool


# --- kardam ---


def kardam(
    name: str, filter: str, shares: bool = False, record: bool = False, durable: bool = False
) -> Wire:
    """A server by this filter and its journal, as `kardam serve` has them; workers on a Client.
    With shared memory, where it `shares`.
    """

    def serve(d: int, workers: int, ready: Callable[[Any], None]) -> None:
        uvloop.run(_serve(d, workers, filter, shares, record, durable, ready))

    @contextlib.contextmanager
    def work(where: Any, index: int, d: int, pool: list[Vector]) -> Iterator[Cycle]:
        endpoint, tokens, door = where
        desk = _admitted(door, index) if shares else None
        with Client(endpoint, "worker", token=tokens[index], desk=desk) as client:
            turn = _turns(pool)
            lease = client.pull()

            def cycle() -> bool:
                nonlocal lease
                judged, lease = client.exchange(Gradient(index, lease.ticket, next(turn)))
                return judged.admitted

            yield cycle

    return Wire(name, serve, work)


async def _serve(
    d: int,
    workers: int,
    filter: str,
    shares: bool,
    record: bool,
    durable: bool,
    ready: Callable[[Any], None],
) -> None:
    async with serving(d, workers, filter, shares, record, durable) as (_, where):
        ready(where)
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def serving(
    d: int,
    workers: int,
    filter: str,
    shares: bool = False,
    record: bool = False,
    durable: bool = False,
) -> AsyncIterator[tuple[Server, Any]]:
    """A server with its journal, and where its workers find it."""
    sessions = primed(d, workers, filter)
    tokens = [sessions.tokens.issue(worker) for worker in range(workers)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Records.create(Path(folder), "", 1) as records,
        socket.socket(socket.AF_UNIX) as door,
    ):
        server: Server
        if record or durable:
            records.record({}, whole=record, durable=durable)
        sessions.descent.hear = lambda event, verdict: records.hear(event, verdict, server.now)
        settle = records.settle if durable else None

        async def flush() -> None:
            while True:
                await asyncio.sleep(FLUSH)
                records.flush()
                records.settle()

        door.bind(f"{folder}/door")
        door.listen(workers)
        if shares:
            shelf = SharedShelf(d, workers)
            sessions.exchange.share(shelf)
            threading.Thread(target=_admit, args=(door, shelf), daemon=True).start()
        async with (
            served(sessions, "tcp://127.0.0.1:0", settle=settle) as server,
            asyncio.TaskGroup() as tasks,
        ):
            flushing = tasks.create_task(flush())
            yield server, (server.endpoint, tokens, f"{folder}/door")
            flushing.cancel()


def _admit(door: socket.socket, shelf: SharedShelf) -> None:
    """Give everybody who comes what it needs to see the shelf; in a run a nursery does."""
    while True:
        guest, _ = door.accept()
        with guest:
            by, pair = shelf.admit(int(guest.recv(16)))
            hand_over(guest, pair)
            guest.sendall(json.dumps(asdict(by)).encode())


def _admitted(door: str, index: int) -> SharedDesk:
    with socket.socket(socket.AF_UNIX) as way:
        way.connect(door)
        way.sendall(str(index).encode())
        pair = taken_over(way)
        desk = SharedDesk(Layout(**json.loads(way.recv(1024))), pair)
    for descriptor in pair:
        os.close(descriptor)
    return desk


def primed(d: int, workers: int, filter: str) -> Sessions:
    """A server that has heard everybody until its filter is ready, and where nobody of the
    `workers` is ever refused.
    """
    n = max(workers, N_LEAST)
    recipe = Recipe.of(n, 1, filter=filter, rate=f"constant:gamma={GAMMA}")
    manifest = Manifest((("x", (d,)),))
    sessions = daemon.house(recipe, np.zeros(d, np.float32), manifest, seed=1, task="")
    sessions.exchange.quorum = 1
    descent = sessions.descent
    pools = [gradients(index, d) for index in range(n)]
    # A start-up of one or two updates, and a pair of answers of each that is apart by one.
    for turn in range(4):
        for index in range(n):
            g = pools[index][turn % 2]
            descent.receive(Gradient(index, descent.lend(index).ticket, g))
    if not descent.filter.ready:
        raise RuntimeError(f"the filter {filter!r} is not ready after four answers of each")
    return sessions


# --- a peer: torch.distributed.rpc, as its tutorial on parameter servers has it ---


class TorchServer:
    """The remote object: get the model, and apply a gradient under a lock."""

    one: "TorchServer"

    def __init__(self, d: int) -> None:
        import torch

        self.x = torch.zeros(d)
        self.lock = threading.Lock()

    @staticmethod
    def pull() -> Any:
        """The newest model."""
        return TorchServer.one.x

    @staticmethod
    def push(g: Any) -> bool:
        """Apply this gradient."""
        server = TorchServer.one
        with server.lock:
            server.x = server.x - float(GAMMA) * g
        return True


def torch_rpc() -> Wire:
    """rpc_sync to get the model, rpc_sync to apply a gradient. TensorPipe chooses its transport,
    which on one machine is shared memory.
    """

    def serve(d: int, workers: int, ready: Callable[[Any], None]) -> None:
        where = f"tcp://127.0.0.1:{_free_port()}"
        ready((where, workers))
        TorchServer.one = TorchServer(d)
        with _member(where, "server", 0, workers + 1):
            threading.Event().wait()

    @contextlib.contextmanager
    def work(where: Any, index: int, d: int, pool: list[Vector]) -> Iterator[Cycle]:
        import torch

        endpoint, workers = where
        with _member(endpoint, f"worker{index}", index + 1, workers + 1) as rpc:
            turn = _turns(pool)

            def cycle() -> bool:
                rpc.rpc_sync("server", TorchServer.pull)
                g = torch.from_numpy(next(turn))
                return bool(rpc.rpc_sync("server", TorchServer.push, args=(g,)))

            yield cycle

    return Wire("torch.distributed.rpc", serve, work)


@contextlib.contextmanager
def _member(where: str, name: str, rank: int, size: int) -> Iterator[Any]:
    import torch
    from torch.distributed import rpc

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # its own use of what it calls deprecated
    options = rpc.TensorPipeRpcBackendOptions(init_method=where)
    init: Callable[..., None] = rpc.init_rpc
    init(name, rank=rank, world_size=size, rpc_backend_options=options)
    yield rpc
    os._exit(0)  # an orderly shutdown waits for everybody, and the server never leaves


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# --- a peer: a Ray actor, found by its name ---


def ray_actor() -> Wire:
    """Await a method of one actor that returns the model, and one that applies a gradient."""

    def serve(d: int, workers: int, ready: Callable[[Any], None]) -> None:
        os.environ["RAY_AUTH_MODE"] = "token"  # read when it is imported
        import ray

        class Holder:
            def __init__(self) -> None:
                self.x = np.zeros(d, np.float32)

            def pull(self) -> Vector:
                return self.x

            def push(self, g: Vector) -> bool:
                self.x = self.x - GAMMA * g
                return True

        ray.init(num_cpus=2, include_dashboard=False, **RAY_HERE)
        holder = ray.remote(Holder).options(name="server").remote()
        ray.get(holder.pull.remote())
        ready(ray.get_runtime_context().gcs_address)
        threading.Event().wait()

    @contextlib.contextmanager
    def work(where: Any, index: int, d: int, pool: list[Vector]) -> Iterator[Cycle]:
        os.environ["RAY_AUTH_MODE"] = "token"  # read when it is imported
        import ray

        ray.init(address=where, **RAY_HERE)
        holder = ray.get_actor("server")
        turn = _turns(pool)

        def cycle() -> bool:
            ray.get(holder.pull.remote())
            return bool(ray.get(holder.push.remote(next(turn))))

        yield cycle

    return Wire("Ray actor", serve, work)


def missing(library: str) -> bool:
    """Whether a peer is not installed here."""
    return importlib.util.find_spec(library) is None
