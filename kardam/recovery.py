"""A recorded run from its newest checkpoint to the last thing that it heard: what a crash left, put
together again.

Reads files. Never in here: a rule, or anything that writes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from kardam import tape
from kardam.checkpoint import Checkpoint
from kardam.descent import Descent
from kardam.errors import Different
from kardam.fingerprint import fingerprint
from kardam.messages import Verdict
from kardam.recipe import Recipe
from kardam.replay import again
from kardam.state import State
from kardam.tape import Kept, Mark


class Retold(NamedTuple):
    """A verdict that no checkpoint knows of, its second, and its gradient's fingerprint."""

    verdict: Verdict
    seconds: float
    fingerprint: str


def descent_of(recipe: Recipe, state: State) -> Descent:
    """The descent that was in this state."""
    # What is drawn here gives way to what the state has.
    descent = recipe.descent(state["x"], chance=np.random.default_rng(0))
    descent.restore(state)
    return descent


def caught_up(run: Path, kept: Checkpoint) -> tuple[State, list[Retold]]:
    """The state after the last thing that the run of this checkpoint has recorded, and the
    verdicts since. Where nothing more is recorded, that is the checkpoint's own.

    Raises Different where what is recorded does not come to the models that it tells of.
    """
    state, mark = kept.state, kept.state["records"].get("recording")
    end = Mark(**mark) if mark is not None else None
    life = tape.life_of(run, end) if end is not None else None
    facts = tape.beginning(life) if life is not None else None
    if life is None or facts is None:
        return state, []
    descent = descent_of(Recipe.of(**facts["recipe"]), state["sessions"]["descent"])
    retold, seconds = [], state["seconds"]
    for told in tape.play(life, end):
        end, seconds = told.mark, max(seconds, told.seconds)
        if isinstance(told.event, Kept):
            _check(told.event, descent, run)
        elif (verdict := again(descent, told.event)) is not None:
            retold.append(Retold(verdict, told.seconds, told.fingerprint))
    return {
        "sessions": {**state["sessions"], "descent": descent.state()},
        "records": {**state["records"], "recording": end._asdict() if end is not None else None},
        "seconds": seconds,
    }, retold


def _check(there: Kept, descent: Descent, run: Path) -> None:
    if (descent.model.version, fingerprint(descent.model.x)) != there:
        raise Different(
            f"{run}: what was received after the last checkpoint comes to another model on this"
            f" machine than the one recorded after {there.version} updates; name the checkpoint"
            " itself, and another --out, to go on from there"
        )
