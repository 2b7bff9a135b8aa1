"""The page, health and metrics over HTTP: for whoever runs the server, and for nobody to change."""

import asyncio
import contextlib
import json
import math
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kardam import watch
from kardam.errors import Unreachable
from kardam.exposition import STATES
from kardam.messages import Verdict
from kardam.plan import Every
from kardam.records import Records
from kardam.scribe import Scribe
from kardam.server import Server, serve
from kardam.stats import Stats
from kardam.telemetry import Page, opened, serving
from kardam.watch import ADMITTED, OTHERWISE, OUTSIDE, Course, Watch
from tests.test_run import lines, started
from tests.test_server import ANY_PORT, on_both_loops, sessions

NAN = math.nan


class Served(NamedTuple):
    """A server without workers, its page, and a browser's way to it."""

    server: Server
    page: Page
    http: ClientSession

    def judged(self, *verdicts: Verdict) -> None:
        for verdict in verdicts:
            self.server.sessions.judged(verdict, self.server.now)
            self.page.record(verdict, took=0.001)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.http.get(path, headers=headers) as answer:
            return answer.status, await answer.text()

    async def books(self) -> str:
        status, body = await self.get("/books", Authorization=f"Bearer {self.page.key}")
        assert status == 200
        return body


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[Served]:
    async with serve(sessions(), ANY_PORT) as server:
        with (
            tempfile.TemporaryDirectory() as folder,
            Records.create(Path(folder), "", keep=1) as records,
            opened(0) as door,
        ):
            scribe = Scribe(server.sessions, records, Every(), lambda: server.now)
            page = Page(server, scribe)
            scribe.begin({})
            async with serving(page, door) as link:
                address, _, key = link.partition("#")
                assert key == page.key
                async with ClientSession(address) as http:
                    yield Served(server, page, http)


REFUSED = Verdict(3, 7, False, "growth", 1, 0, 1, 9.0, 1.0, 2.0, 9.0, NAN, 9.0, 1.0, 2.0)


@on_both_loops
async def test_it_is_alive_from_the_start_and_ready_once_enough_workers_are_there() -> None:
    async with served() as here:
        assert await here.get("/health") == (200, "ok\n")
        assert await here.get("/ready") == (503, "waiting (0 of 1)\n")


@on_both_loops
async def test_the_books_are_for_who_has_the_key() -> None:
    async with served() as here:
        assert (await here.get("/books"))[0] == 401
        assert (await here.get("/books", Authorization="Bearer no"))[0] == 401
        here.judged(REFUSED)
        told = json.loads(await here.books())
        assert told["workers"][0]["trace"] == [[OUTSIDE, 9.0]]
        assert told["refusals"][0] | {"seconds": 0} == {
            "seconds": 0, "worker": 3, "staleness": 1, "rule": "growth",
            "why": "its gradient changed too much as the model moved: by 9, where 1 to 2 was taken",
        }  # fmt: skip
        # Nobody learns them from the other pages.
        for path in ("/metrics", "/health", "/ready"):
            assert here.page.key not in (await here.get(path))[1]
        assert "9.0" not in re.sub(r"kardam_\w+_created.*", "", (await here.get("/metrics"))[1])


@on_both_loops
async def test_another_name_for_this_machine_is_no_way_in() -> None:
    async with served() as here:
        for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
            assert (await here.get("/health", Host=name))[0] == 403
        for name in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"):
            assert (await here.get("/health", Host=name))[0] == 200


@on_both_loops
async def test_nothing_can_be_changed() -> None:
    async with served() as here:
        for path in ("/", "/books", "/metrics"):
            for ask in (here.http.post, here.http.put, here.http.delete):
                async with ask(path) as answer:
                    assert answer.status == 405


@on_both_loops
async def test_however_many_ask_the_books_are_made_at_most_twice_a_second() -> None:
    async with served() as here:
        made = 0
        books = here.server.books

        def counted() -> dict[str, object]:
            nonlocal made
            made += 1
            return books()

        here.server.books = counted  # type: ignore[method-assign]
        began = here.server.now
        await asyncio.gather(*(here.books() for _ in range(50)))
        assert 1 <= made <= 1 + 2 * (here.server.now - began)


@on_both_loops
async def test_metrics_are_those_of_the_books_and_no_label_is_a_workers_choice() -> None:
    async with served() as here:
        here.server.sessions.stats.label(3, 'mine"} 1\nkardam_evil 1', byzantine=True)
        here.judged(REFUSED, Verdict(2, 5, True, "", 2, 0, 0, weight=0.5), REFUSED)
        status, text = await here.get("/metrics")
        assert status == 200
        assert "evil" not in text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert samples["kardam_gradients_total", "admitted"] == 1
        assert samples["kardam_gradients_total", "growth"] == 2
        assert samples["kardam_model_version",] == 2
        assert samples["kardam_gradient_staleness_bucket", "0"] == 1
        assert samples["kardam_gradient_staleness_count",] == 3
        assert samples["kardam_gradient_staleness_sum",] == 2
        assert samples["kardam_apply_seconds_count",] == 3
        assert samples["kardam_weight_sum",] == 0.5
        assert samples["kardam_checkpoint_seconds",] > 0
        states = {sample.labels["state"] for sample in families["kardam_workers"].samples}
        assert states == set(STATES)
        assert sum(samples["kardam_workers", state] for state in STATES) == 4
        assert families.keys() >= {
            "kardam_bytes", "kardam_inflight_bytes", "kardam_event_loop_lag_seconds",
            "kardam_last_update_timestamp_seconds", "kardam_pull_seconds",
        }  # fmt: skip


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = f"--dashboard {port}: Address already in use; 0 takes any free port"
        with pytest.raises(Unreachable, match=taken), opened(port):
            pass


def test_the_page_asks_nobody_else_for_anything() -> None:
    for path in (files("kardam") / "page").iterdir():
        assert not re.search(r"https?:|//\w|innerHTML", path.read_text()), path


# --- what the page shows beside the books ---


@given(st.integers(1, 5000))
def test_a_course_spans_the_whole_run_in_bounded_memory(count: int) -> None:
    course = Course(most=20)
    for second in range(count):
        course.add((second,))
    seconds = [int(row[0] or 0) for row in course.rows]
    assert len(seconds) <= 20
    assert seconds[0] == 0
    gaps = {after - before for before, after in pairwise(seconds)}
    assert len(gaps) <= 1
    assert count - 1 - seconds[-1] < max(gaps, default=1)


def row(worker: int, byzantine: bool = False) -> dict[str, object]:
    return {"worker": worker, "byzantine": byzantine, "state": "alive", "delivered": 0}


def test_of_very_many_workers_those_are_told_of_who_are_said_to_lie() -> None:
    rows = [row(worker, byzantine=worker >= 997) for worker in range(1000)]
    books = Stats(1000, 3).snapshot(0.0) | {"status": "running", "workers": rows}
    told = [its["worker"] for its in Watch().snapshot(books)["workers"]]
    assert told == [*range(watch.ROWS - 3), 997, 998, 999]


def banded(admitted: bool, rule: str, reading: float) -> Verdict:
    return Verdict(3, 7, admitted, rule, 1, reading=reading, band_low=1.0, band_high=2.0)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (REFUSED, (OUTSIDE, 9.0)),
        (banded(True, "", 1.5), (ADMITTED, 1.5)),
        (banded(False, "frequency", 1.5), (OTHERWISE, 1.5)),
        (banded(False, "growth", math.inf), (OUTSIDE, None)),
        (Verdict(3, 7, False, "unmeasured", 1), (OTHERWISE, None)),
        (Verdict(3, 7, False, "unmeasured", 1, reading=1.5), (OTHERWISE, 1.5)),
        (Verdict(3, 7, True, "startup", 1), (ADMITTED, None)),
    ],
)
def test_a_trace_says_what_became_of_a_gradient(
    verdict: Verdict, expected: tuple[int, float | None]
) -> None:
    told = Watch()
    for second in range(2 * watch.TRACE):
        told.record(verdict, float(second))
    shown = told.snapshot(Stats(5, 1).snapshot(0.0) | {"status": "running", "workers": [row(3)]})
    assert shown["workers"][0]["trace"] == [expected] * watch.TRACE
    newest = [refusal["seconds"] for refusal in shown["refusals"]]
    assert newest == ([] if verdict.admitted else sorted(newest, reverse=True))


# --- in a browser ---


@pytest.mark.slow
def test_a_browser_sees_a_liar_being_caught_and_a_lost_connection(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install '.[browser]'")

    words = ("--byzantine", "3", "--attack", "sign_flip:scale=10", "--seconds", "60")
    with started("run", *words, "--seed", "1", "--dashboard", "0", cwd=tmp_path) as run:
        link = lines(run, r"http://\S+")[0]
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            wrong: list[str] = []
            page.on("console", lambda message: wrong.append(message.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(link)
            page.locator("#growth").wait_for()
            keyless = browser.new_page()
            keyless.goto(link.partition("#")[0])
            keyless.locator("#lost", has_text="needs its key").wait_for()
            assert not keyless.locator("main").is_visible()
            keyless.close()
            liars = page.locator("#workers tr.liar.refused")
            liars.nth(2).wait_for()
            assert page.locator("#workers tbody tr").count() == 10
            page.locator("#refusals td.why", has_text="changed too much").first.wait_for()
            shown = page.locator("#facts dd").nth(1)
            before = shown.inner_text()
            page.wait_for_function(
                "before => document.querySelectorAll('#facts dd')[1].innerText !== before",
                arg=before,
            )
            # Something is drawn: the canvas is not one colour.
            assert (
                page.evaluate(
                    "new Set(document.getElementById('growth').getContext('2d')"
                    ".getImageData(0, 0, 400, 200).data).size"
                )
                > 5
            )
            # On a phone nothing lies beyond the edge, by day or by night.
            page.set_viewport_size({"width": 390, "height": 844})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert wrong == []
            assert {url[: len("http://127.0.0.1:")] for url in asked} == {"http://127.0.0.1:"}
            run.send_signal(signal.SIGINT)
            page.locator("#lost").wait_for()
            assert "Connection lost" in page.locator("#lost").inner_text()
            browser.close()
