"""A server and its workers on virtual time, under faults that a seed draws: the real sessions,
descent, links and workers; only the wire, the processes and the clock are played.

`play(seed)` is a whole run: first the storm, in which only safety is promised, then the calm, in
which everybody is answered again. Never in here: a socket, a process, or chance of its own.
"""

from workers.faults.play import Tale, play
from workers.faults.promises import Broken

__all__ = ["Broken", "Tale", "play"]
