"""What run and serve wait for at the end: the newest model evaluated, and who died."""

import asyncio

from kardam.diagnosis import Books
from kardam.plan import Until
from kardam.server import Server
from workers.swarm import EVALUATOR, Swarm

# Seconds between two evaluations of the held-out data.
EVALUATE_EVERY = 0.5

# Seconds without a word from the server after which a process of ours gives up: a disk may be slow,
# or somebody has stopped it for a while. Where it dies, they end with it at once.
PATIENCE = 600.0

# Seconds that the newest model may wait for its evaluation at the end.
EVALUATION_SECONDS = 10.0


async def last_evaluation(server: Server, hands: Swarm) -> None:
    """Wait until the newest model is evaluated, but not for long, and not for a dead evaluator."""
    stats = server.sessions.stats
    until = server.now + EVALUATION_SECONDS
    while server.now < until and EVALUATOR not in hands.deaths:
        if stats.held_out and stats.held_out[-1].updates >= stats.updates:
            break
        await asyncio.sleep(EVALUATE_EVERY / 10)


def unmeasured(until: Until, hands: Swarm) -> str:
    """Why it will never be enough, where nobody is left to measure that; else empty."""
    fate = hands.fates.get(EVALUATOR)
    if fate is None or not until.by_accuracy_alone:
        return ""
    return f"nobody measures --target {until.target:g} any more; the evaluator: {fate}"


def with_deaths(books: Books, hands: Swarm) -> Books:
    return {**books, "deaths": {name: str(fate) for name, fate in hands.deaths.items()}}
