"""The books for Prometheus: a scrape reads what the server counts anyway.

Labels are words of ours (a rule, a state, a direction), never anything that a worker chose; nor are
there values or bounds of the filter in here, which would be an oracle for liars.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from kardam.messages import Verdict
from kardam.scribe import Scribe
from kardam.sessions import Sessions

STATES = ("alive", "new", "missing", "expected", "left", "gone", "replaced", "revoked", "unknown")
STALENESS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS = (1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0)
WEIGHTS = tuple(tenth / 10 for tenth in range(1, 11))


class Books(Collector):
    """What is read off at a scrape."""

    def __init__(self, sessions: Sessions, scribe: Scribe) -> None:
        self._sessions = sessions
        self._scribe = scribe
        self.now = 0.0

    def collect(self) -> Iterator[Metric]:
        sessions, stats = self._sessions, self._sessions.stats
        yield GaugeMetricFamily("kardam_model_version", "Updates so far.", stats.updates)
        workers = GaugeMetricFamily("kardam_workers", "Workers by state.", labels=["state"])
        present = Counter(sessions.presence(worker, self.now) for worker in range(stats.n))
        for state in STATES:
            workers.add_metric([state], present[state])
        yield workers
        gradients = CounterMetricFamily(
            "kardam_gradients", "Judged: admitted, or the rule that refused.", labels=["verdict"]
        )
        for verdict, count in {"admitted": stats.total.admitted, **stats.total.refused}.items():
            gradients.add_metric([verdict], count)
        yield gradients
        yield self._staleness()
        yield CounterMetricFamily(
            "kardam_violations", "Messages that break the protocol.", stats.violations
        )
        yield CounterMetricFamily(
            "kardam_strangers", "Handshakes that were refused.", stats.strangers
        )
        moved = CounterMetricFamily(
            "kardam_bytes", "Bytes of gradients (in) and models (out).", labels=["direction"]
        )
        moved.add_metric(["in"], stats.received)
        moved.add_metric(["out"], stats.sent)
        yield moved
        yield GaugeMetricFamily(
            "kardam_inflight_bytes", "Bytes that workers may have on the way.", sessions.reserved
        )
        yield SummaryMetricFamily(
            "kardam_pull_seconds",
            "From the question for a model to the hand-out.",
            count_value=stats.lent,
            sum_value=stats.waited,
        )
        yield GaugeMetricFamily(
            "kardam_checkpoint_seconds",
            "What the newest checkpoint took, in a thread of its own.",
            self._scribe.checkpoint_seconds,
        )
        yield GaugeMetricFamily("kardam_held_out_accuracy", "Newest, 0 to 1.", stats.accuracy)
        yield GaugeMetricFamily("kardam_held_out_loss", "Newest.", stats.loss)

    def _staleness(self) -> Metric:
        stale = self._sessions.stats.stale
        within: Counter[str] = Counter()
        for tau, count in stale.items():
            within[next((str(edge) for edge in STALENESS if tau <= edge), "+Inf")] += count
        edges = [*map(str, STALENESS), "+Inf"]
        buckets = zip(edges, accumulate(within[edge] for edge in edges), strict=True)
        return HistogramMetricFamily(
            "kardam_gradient_staleness",
            "Updates between the model lent and the gradient judged.",
            buckets=[(edge, float(count)) for edge, count in buckets],
            sum_value=sum(tau * count for tau, count in stale.items()),
        )


class Exposition:
    """One server's metrics: those of its books, and those that have to be timed as they happen."""

    def __init__(self, sessions: Sessions, scribe: Scribe) -> None:
        self._registry = CollectorRegistry()
        self._books = Books(sessions, scribe)
        self._registry.register(self._books)
        self._apply = Histogram(
            "kardam_apply_seconds",
            "To judge a gradient, and to apply it.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._weight = Histogram(
            "kardam_weight",
            "What an admitted gradient was multiplied by: dampening times the filter's scale.",
            buckets=WEIGHTS,
            registry=self._registry,
        )
        self._lag = Histogram(
            "kardam_event_loop_lag_seconds",
            "By how much the event loop was late.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._updated = Gauge(
            "kardam_last_update_timestamp_seconds",
            "When the model last moved, in Unix time.",
            registry=self._registry,
        )
        self._version = sessions.stats.updates

    def record(self, verdict: Verdict, took: float) -> None:
        """One verdict, and the seconds that it took."""
        self._apply.observe(took)
        if verdict.admitted:
            self._weight.observe(verdict.weight)
        if verdict.updates > self._version:
            self._version = verdict.updates
            self._updated.set_to_current_time()

    def lagged(self, seconds: float) -> None:
        """The event loop was so late."""
        self._lag.observe(seconds)

    def text(self, now: float) -> bytes:
        """All of it, in Prometheus' text format."""
        self._books.now = now
        return generate_latest(self._registry)
