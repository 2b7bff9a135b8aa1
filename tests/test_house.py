"""The architecture, as a machine reads it: imports run down, and each library enters by its own
door.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent

# From the roof to the ground. A module imports from below its own line; beside itself, nothing.
PLAN = """
workers.__main__
workers.verbs.doctor
workers.verbs.run  workers.verbs.serve  workers.verbs.simulate
workers.verbs.work  workers.verbs.new
workers.verbs.playing
workers.verbs.options  workers.verbs.evaluation
workers.verbs
workers.laboratory
workers.swarm  workers.nursery
workers.lifeline
workers.simulation  workers.process  workers.training  workers.faults
workers.faults.play
workers.faults.machine  workers.faults.host
workers.faults.promises
workers.faults.lines
workers.faults.clock  workers.faults.weather
workers.examples.images  workers.examples.text  workers.examples.mails  workers.examples.movies
workers.examples
workers.crew  workers.objective  workers.tensors
workers.parameters
workers.worker  workers.tasks
workers.attacks  workers.latency  workers.speeds  workers.outages
workers.attacks.adaptive  workers.attacks.directed
workers.attacks.vectors  workers.attacks.malformed  workers.attacks.stale  workers.attacks.timing
workers.attacks.collusion
workers.attacks.attack  workers.board  workers.sight
workers.tasks.digits  workers.tasks.npz  workers.tasks.synthetic  workers.tasks.trial
workers.tasks.task  workers.tasks.splits
workers
kardam.__main__
kardam.verbs.serve  kardam.verbs.stats  kardam.verbs.checkpoint  kardam.verbs.report
kardam.verbs.keys
kardam.verbs.replay  kardam.verbs.explain
kardam.verbs.printing
kardam.verbs
kardam.report  kardam.retelling
kardam.doctor.machine  kardam.doctor.endpoint
kardam.doctor.finding
kardam.doctor
kardam.flags
kardam.experiment  kardam.daemon  kardam.live  kardam.figures
kardam.telemetry
kardam.exposition
kardam.shared
kardam.scribe  kardam.server  kardam.view  kardam.chronicle  kardam.watch
kardam.outcome  kardam.router
kardam.explain
kardam.plan  kardam.records  kardam.recovery
kardam.recording
kardam.tape
kardam.logs
kardam.client  kardam.recipe  kardam.checkpoint  kardam.kits
kardam.dealer
kardam.line  kardam.gate
kardam.sessions
kardam.exchange  kardam.link  kardam.replay
kardam.roll
kardam.descent  kardam.stats  kardam.keys  kardam.diagnosis
kardam.trusted
kardam.filters  kardam.dampening  kardam.gathering  kardam.optimizers  kardam.rates
kardam.gathering.rivals  kardam.consensus  kardam.throttle
kardam.terms  kardam.histories  kardam.centre
kardam.gathering.gathering  kardam.stage  kardam.probation  kardam.voices  kardam.blocs
kardam.aggregators  kardam.lens  kardam.uploads
kardam.rooms
kardam.growth  kardam.protocol  kardam.events  kardam.fingerprint
kardam.places  kardam.ring  kardam.memory  kardam.complaints
kardam.sweep
kardam.help
kardam.messages  kardam.spec  kardam.state  kardam.pages
kardam.errors
kardam
"""

SHELLS = {
    "kardam.client",
    "kardam.dealer",
    "kardam.server",
    "kardam.router",
    "kardam.memory",
    "kardam.daemon",
    "kardam.keys",
    "kardam.checkpoint",
    "kardam.shared",
}
SHELLS |= {
    "kardam.chronicle",
    "kardam.report",
    "kardam.telemetry",
    "kardam.records",
    "kardam.scribe",
    "kardam.logs",
    "kardam.tape",
    "kardam.recording",
    "kardam.recovery",
    "kardam.retelling",
    "kardam.live",
    "kardam.experiment",
    "kardam.flags",
    "kardam.kits",
    "kardam.line",
    "kardam.gate",
}
SHELLS |= {"workers.process", "workers.nursery", "workers.swarm"}
DOCTOR = {"kardam.doctor.machine", "kardam.doctor.endpoint"}
SHELLS |= DOCTOR
MAINS = {"kardam.__main__", "workers.__main__"}
MAINS |= {name for name in PLAN.split() if ".verbs." in name}
TORCH = {"workers.tasks", "workers.objective", "workers.process", "workers.nursery"}
TORCH |= {"workers.parameters", "workers.training", "workers.tensors"}
TORCH |= {f"workers.examples.{name}" for name in ("images", "text", "mails", "movies")}
TORCH |= {f"workers.tasks.{name}" for name in ("task", "trial", "digits", "npz", "synthetic")}

# Who may import it; a library that is not listed, and is not the standard library's, nobody may.
DOORS = {
    "aiohttp": {"kardam.telemetry"},
    "prometheus_client": {"kardam.exposition"},
    "zmq": {
        *(
            f"kardam.{name}"
            for name in ("client", "dealer", "router", "server", "line", "gate", "kits")
        ),
        *DOCTOR,
    },
    "msgpack": {"kardam.protocol"},
    "torch": TORCH,
    "sklearn": {"workers.tasks.digits"},
    "uvloop": MAINS,
    "click": {"kardam.live", "kardam.flags", "kardam.experiment", "kardam.help", *MAINS},
    "rich": {"kardam.view", "kardam.live", *MAINS},
    "matplotlib": {"kardam.figures", "kardam.report"},
    "safetensors": {"kardam.checkpoint"},
    "sortedcontainers": {"kardam.growth"},
    "tomllib": {"kardam.experiment", "kardam.chronicle"},
    "tomli_w": {"kardam.experiment"},
    "ctypes": {"kardam.pages", "kardam.memory"},
    "resource": {"kardam.memory"},
    "fcntl": {"kardam.logs", "kardam.shared"},
    "xxhash": {"kardam.fingerprint"},
    "mmap": {"kardam.shared", "workers.board"},
    "datetime": {"kardam.daemon", "kardam.flags"},
    "asyncio": {
        *(f"kardam.{name}" for name in ("server", "daemon", "scribe", "telemetry")),
        *{"workers.swarm", "kardam.doctor.machine", *MAINS},
    },
    "time": {
        *(
            f"kardam.{name}"
            for name in (
                "client",
                "dealer",
                "router",
                "server",
                "scribe",
                "telemetry",
                "verbs.stats",
            )
        ),
        *{"workers.process", "workers.nursery", "workers.verbs.playing", *DOCTOR},
    },
    "random": {"kardam.client"},
    "secrets": {"kardam.daemon", "kardam.shared"},
    "threading": {"kardam.client", "workers.lifeline"},
    "socket": {
        *(f"kardam.{name}" for name in ("client", "daemon", "shared", "telemetry")),
        *{"workers.nursery", "workers.swarm", *DOCTOR},
    },
    "logging": {
        *(
            f"kardam.{name}"
            for name in ("complaints", "dealer", "server", "gate", "scribe", "daemon", "__main__")
        ),
        *{"kardam.shared", "workers.swarm"},
    },
    "pickle": set(),
    "multiprocessing": set(),
}


def modules() -> dict[str, ast.Module]:
    """Every module of the house, by its dotted name."""
    found = {}
    for path in sorted([*HOUSE.glob("kardam/**/*.py"), *HOUSE.glob("workers/**/*.py")]):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()
LEVELS = {
    name: level for level, line in enumerate(PLAN.strip().splitlines()) for name in line.split()
}


def imports(name: str) -> set[str]:
    """What a module imports, as dotted names; `from kardam import view` is `kardam.view`."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def test_every_module_has_its_place_in_the_plan() -> None:
    assert set(LEVELS) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_down(name: str) -> None:
    ours = {other for other in imports(name) if other in MODULES}
    assert [other for other in ours if LEVELS[other] <= LEVELS[name]] == []


@pytest.mark.parametrize("name", MODULES)
def test_each_library_enters_by_its_own_door(name: str) -> None:
    for library in {other.partition(".")[0] for other in imports(name)}:
        if library in DOORS:
            assert name in DOORS[library], f"{library} may not enter by {name}"
        else:
            assert library in {"kardam", "workers", "numpy"} | sys.stdlib_module_names


@pytest.mark.parametrize("name", MODULES)
def test_the_first_line_of_a_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(MODULES[name])


@pytest.mark.parametrize("name", sorted(set(MODULES) - SHELLS - MAINS))
def test_cores_read_no_clock_and_draw_no_chance_of_their_own(name: str) -> None:
    calls = {ast.unparse(n.func) for n in ast.walk(MODULES[name]) if isinstance(n, ast.Call)}
    assert not calls & {"open", "print", "input", "os.urandom", "np.random.rand"}
    unseeded = [
        n
        for n in ast.walk(MODULES[name])
        if isinstance(n, ast.Call) and ast.unparse(n.func) == "np.random.default_rng" and not n.args
    ]
    assert unseeded == []


def loaded_by(*code: str) -> set[str]:
    program = f"{'; '.join(code)}; import sys; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HOUSE
    )
    return set(ran.stdout.split())


def test_the_servers_side_imports_neither_torch_nor_workers() -> None:
    assert not loaded_by("import kardam.__main__") & {"torch", "workers", "sklearn", "matplotlib"}


def test_the_binarys_parent_process_imports_no_torch() -> None:
    assert not loaded_by("import workers.__main__") & {"torch", "sklearn", "matplotlib"}
