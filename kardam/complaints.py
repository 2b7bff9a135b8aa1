"""What peers do wrong, in the log: one counted line an interval and kind, however often it happens.

Never in here: a peer, or what is wrong.
"""

import logging

log = logging.getLogger(__name__)

# Seconds between two lines of one kind.
INTERVAL = 30.0


class Complaints:
    """Counts; the first of a kind is told at once, and then how many there were since."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._told: dict[str, float] = {}

    def add(self, what: str, count: int = 1) -> None:
        """This happened, so many times: `messages that are none`, in the plural."""
        self._counts[what] = self._counts.get(what, 0) + count

    def tell(self, now: float) -> None:
        """Log what is due at this second."""
        for what, count in list(self._counts.items()):
            since = self._told.get(what)
            if count and (since is None or now - since >= INTERVAL):
                log.warning("%s: %d%s", what, count, f" in {now - since:.0f} s" if since else "")
                self._counts[what], self._told[what] = 0, now
