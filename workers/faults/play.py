"""One run from its seed: the storm, the calm after it, and the end. Wiring of the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from workers.board import private
from workers.crew import Member
from workers.faults.clock import Clock
from workers.faults.host import Ahead, Host, Rogue, hired
from workers.faults.lines import Net
from workers.faults.machine import Machine
from workers.faults.promises import Broken, Promises
from workers.faults.weather import ROGUE, STORM, Fault, Scenario, Weather

# Seconds of calm by which everybody was answered again, and the model has moved on by so many
# updates. A worker may take half a minute to see that its line is dead, and a minute to ask again.
CALM = 150.0
MORE_UPDATES = 5

# Seconds in which all have left.
END = 60.0


@dataclass
class Tale:
    """What happened. `calm`: seconds until all was well again."""

    scenario: Scenario
    lines: list[str] = field(default_factory=list)
    verdicts: int = 0
    updates: int = 0
    crashes: int = 0
    calm: float = 0.0


def play(seed: int, tell: Callable[[str], None] = lambda line: None) -> Tale:
    """The run of this seed, told line by line. Raises Broken."""
    return Play(Scenario.drawn(seed), tell).run()


class Play:
    """A scenario on its stage."""

    def __init__(self, scenario: Scenario, tell: Callable[[str], None]) -> None:
        self.scenario = scenario
        self._tell = tell
        self.clock = Clock()
        weather = scenario.weather
        chance = np.random.default_rng([scenario.seed, 0x0C1A05])
        # The net's own copy: the calm is another weather.
        self.net = Net(self.clock, Weather(weather.delay, weather.loses, weather.doubles), chance)
        honest = set(range(scenario.n - scenario.f))
        rough = weather.loses > 0 or weather.doubles > 0
        self.promises = Promises(honest, rough)
        self.machine = Machine(scenario, self.clock, self.net, self.promises)
        tokens = [
            self.machine.sessions.expect(worker, "", worker not in honest, 0.0)
            for worker in range(scenario.n)
        ]
        boards = private(scenario.n, max(scenario.f, 1), scenario.d)
        self.hosts: list[Host] = []
        for index, token in enumerate(tokens):
            lies = index not in honest
            rogue = lies and scenario.attack == ROGUE
            member = Member(
                index,
                attack=scenario.attack if lies and not rogue else "honest",
                latency="lognormal:mean=0.5,sigma=1",
                outages="" if lies else scenario.outages,
            )
            # In rounds there is no model to fetch ahead.
            ahead = chance.random() < 0.5 and not lies and scenario.gather != "synchronous"
            self.hosts.append(
                (Rogue if rogue else Ahead if ahead else Host)(
                    index,
                    token,
                    self.clock,
                    self.net,
                    None if lies else self.promises,
                    hired(member, scenario.seed, boards.pop() if lies else None),
                    np.random.default_rng([scenario.seed, index, 0x0575]),
                )
            )
        self.tale = Tale(scenario)

    @property
    def honest(self) -> list[Host]:
        return self.hosts[: self.scenario.n - self.scenario.f]

    def run(self) -> Tale:
        self._say(f"{self.scenario}")
        self.machine.start()
        for host in self.hosts:
            host.start()
        for fault in self.scenario.faults:
            self.clock.at(fault.second, lambda fault=fault: self._befall(fault))  # type: ignore[misc]
        self.clock.run(STORM)
        self._calm()
        self._end()
        return self.tale

    def _say(self, line: str) -> None:
        self._tell(f"{self.clock.now:8.3f}  {line}")

    def _befall(self, fault: Fault) -> None:
        self._say(f"{fault.kind} {fault.victim} for {fault.seconds:.1f} s")
        host, after = self.hosts[fault.victim], self.clock.now + fault.seconds
        match fault.kind:
            case "cut":
                host.lose()
            case "stall":
                self.net.stall(host, fault.seconds)
            case "swallow":
                self.net.swallow(host)
            case "shut":
                self.net.shut[host] = max(after, self.net.shut.get(host, 0.0))
                host.lose()
            case "stop":
                host.stop()
                self.clock.at(after, host.go_on)
            case "kill":
                host.kill()
                self.clock.at(after, host.start)
            case "crash":
                self.tale.crashes += self.machine.up
                self.machine.crash()
                for other in self.hosts:
                    other.lose()
                self.clock.at(after, self.machine.start)
            case "freeze":
                self.machine.freeze()
                self.clock.at(after, self.machine.thaw)

    def _calm(self) -> None:
        """No more faults; what they did is left to heal by itself."""
        self._say("calm")
        self.net.weather.loses = self.net.weather.doubles = 0.0
        self.net.shut.clear()
        for host in self.hosts:
            host.go_on()
            host.start()
        self.machine.thaw()
        self.machine.start()
        began, updates = self.clock.now, self.machine.sessions.stats.updates
        # The paper's own two filters may, between them, refuse everybody for ever.
        freezes = self.scenario.preset == "paper" and self.scenario.f > 0
        heard = {host: host.answered for host in self.honest}

        def well() -> bool:
            moved = self.machine.sessions.stats.updates >= updates + MORE_UPDATES
            return (moved or freezes) and all(
                host.answered >= heard[host] + 2 for host in self.honest
            )

        if not self.clock.run(began + CALM, well):
            stats = self.machine.sessions.stats
            waiting = [host.index for host in self.honest if host.answered < heard[host] + 2]
            raise Broken(
                f"{CALM:g} s after the last fault workers {waiting} have no answers, and of"
                f" {MORE_UPDATES} updates there were {stats.updates - updates}"
                f" (refused: {dict(stats.since_admitted)})"
            )
        self.tale.calm = self.clock.now - began
        self._say(f"well after {self.tale.calm:.1f} s")
        self._sum_up()

    def _end(self) -> None:
        """All are told that it is over, and leave."""
        self.machine.end()
        if not self.clock.run(self.clock.now + END, lambda: all(host.over for host in self.honest)):
            staying = [host.index for host in self.honest if not host.over]
            raise Broken(f"{END:g} s after the end workers {staying} do not know of it")
        for host in self.hosts[len(self.honest) :]:
            host.kill()
        self.clock.run(self.clock.now + END)
        self.promises.idle(self.machine.sessions)
        self._sum_up()

    def _sum_up(self) -> None:
        self.promises.books(self.machine.sessions, self.machine.journal)
        self.tale.verdicts = len(self.machine.journal)
        self.tale.updates = self.machine.sessions.stats.updates
