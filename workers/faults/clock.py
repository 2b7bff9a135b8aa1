"""Virtual time: a heap of what is to happen, and when. Never in here: what happens."""

import heapq
from collections.abc import Callable
from itertools import count


class Clock:
    """Events in the order of time; of those of one instant, the first asked for is the first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, second: float, do: Callable[[], None]) -> None:
        """Call this then; at once, where that is over."""
        heapq.heappush(self._events, (max(second, self.now), next(self._order), do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Call this so many seconds from now."""
        self.at(self.now + seconds, do)

    def run(self, until: float, enough: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass up to this second, or until it is enough; whether it was."""
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()
            if enough():
                return True
        self.now = until
        return enough()
