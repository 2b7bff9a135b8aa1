"""A read-only page, health and metrics over HTTP on loopback, on the server's own event loop: so
that `/health` answers if, and only if, the server still does.

It reads what is counted anyway, at most once in FRESH seconds however many ask. Never in here: a
way to change anything, or what the page looks like (page/).
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.resources import files

from aiohttp import web

from kardam.errors import Unreachable
from kardam.exposition import Exposition
from kardam.messages import Verdict
from kardam.scribe import Scribe
from kardam.server import Server
from kardam.watch import Watch

HOST = "127.0.0.1"

# What browsers call us; another name that leads here is somebody else's page.
NAMES = {HOST, "localhost", "[::1]"}

# Seconds: for how long an answer is new enough, between two points of the course, between two
# looks at how late the event loop is, and how long open connections may take at the end.
FRESH, MEASURE, LAG, GOODBYE = 0.5, 1.0, 0.25, 0.2

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.contextmanager
def opened(port: int) -> Iterator[socket.socket]:
    """A socket that listens on this port of loopback, 0 for any. Raises Unreachable where it is
    taken.
    """
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, port))
        except OSError as error:
            raise Unreachable(
                f"--dashboard {port}: {error.strerror}; 0 takes any free port"
            ) from error
        yield door


class Page:
    """What is served. The key is known to who can read the server's standard error: values and
    bounds of the filter are for operators, and other users of this machine may be workers.
    """

    def __init__(self, server: Server, scribe: Scribe) -> None:
        self._server = server
        self._watch = Watch()
        self._exposition = Exposition(server.sessions, scribe)
        operator = server.sessions.tokens.operator
        self.key = hashlib.sha256(operator.encode()).hexdigest()[:32]
        self._books = b""
        self._fresh_until = 0.0

    def record(self, verdict: Verdict, took: float) -> None:
        """One verdict, and the seconds that it took."""
        self._watch.record(verdict, self._server.now)
        self._exposition.record(verdict, took)

    async def measure(self) -> None:
        """Go on for ever: a point of the course now and then, and how late the event loop is."""
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                due += MEASURE
                self._watch.measure(self._server.sessions.metrics(self._server.now))
            began = time.monotonic()
            await asyncio.sleep(LAG)
            self._exposition.lagged(max(time.monotonic() - began - LAG, 0.0))

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_ours_alone])
        app.router.add_get("/books", self._get_books)
        app.router.add_get("/health", self._get_health)
        app.router.add_get("/ready", self._get_ready)
        app.router.add_get("/metrics", self._get_metrics)
        for name in ("index.html", "page.css", "page.js"):
            path = "/" if name == "index.html" else f"/{name}"
            app.router.add_get(path, _static(name))
        return app

    async def _get_books(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
            raise web.HTTPUnauthorized(text="open the link that the server printed: it has a key\n")
        now = self._server.now
        if now >= self._fresh_until:
            self._fresh_until = now + FRESH
            self._books = json.dumps(self._watch.snapshot(self._server.books())).encode()
        return web.Response(body=self._books, content_type="application/json")

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_ready(self, request: web.Request) -> web.Response:
        status = self._server.sessions.status()
        ready = status in ("starting", "running")
        return web.Response(text=f"{status}\n", status=200 if ready else 503)

    async def _get_metrics(self, request: web.Request) -> web.Response:
        body = self._exposition.text(self._server.now)
        return web.Response(
            body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _static(name: str) -> Handler:
    body = (files("kardam") / "page" / name).read_bytes()
    kind = KINDS[name.rpartition(".")[2]]

    async def get(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return get


@web.middleware
async def _ours_alone(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.host.rpartition(":")[0] not in NAMES and request.host not in NAMES:
        raise web.HTTPForbidden(text="this page is served on loopback alone\n", headers=HEADERS)
    response = await handler(request)
    response.headers.update(HEADERS)
    return response


@contextlib.asynccontextmanager
async def serving(page: Page, door: socket.socket) -> AsyncIterator[str]:
    """Serve the page by this door while the block runs; the link to open."""
    runner = web.AppRunner(page.app(), access_log=None, shutdown_timeout=GOODBYE)
    measuring = asyncio.create_task(page.measure())
    try:
        await runner.setup()
        await web.SockSite(runner, door).start()
        yield f"http://{HOST}:{door.getsockname()[1]}/#{page.key}"
    finally:
        measuring.cancel()
        await runner.cleanup()
