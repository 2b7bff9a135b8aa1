"""Anybody's training loop on a real server: what it does is what torch would have done alone."""

import asyncio
import contextlib
import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kardam import checkpoint, daemon
from kardam.errors import Denied, TaskError, Unreachable, UsageError
from kardam.gate import Locked
from kardam.keys import Keys
from kardam.kits import Folder, Kit, new_pair, write_kit
from kardam.messages import Verdict
from kardam.recipe import Recipe
from kardam.ring import Entry
from kardam.server import serve
from kardam.sessions import Sessions
from workers.parameters import manifest_of, trained, vector_of
from workers.training import Training, connect

ANY_PORT = "tcp://127.0.0.1:0"
SECONDS = 40.0  # everything here ends by itself, or fails
GAMMA = 0.1  # the server's default rate

# What the user of these tests wrote: called in a thread, with where the server listens.
Script = Callable[[str], Any]


class Everything(nn.Module):
    """What a module may be made of: a batch norm, tied, frozen and double parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.out = nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Any:
        h = self.norm(self.into(x)).relu()
        return self.out(self.frozen(self.b(self.a(h).tanh())).double()).float()


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)  # noqa: TID251  # a user's module
    return make()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 4, generator=chance), torch.randint(2, (8,), generator=chance))
        for _ in range(count)
    ]


def house(module: nn.Module, n: int = 1) -> Sessions:
    named = trained(module)
    recipe = Recipe.of(n=n, preset="none")
    return daemon.house(recipe, vector_of(named), manifest_of(named), seed=1, task="")


def ran(sessions: Sessions, script: Script, verdicts: list[Verdict] | None = None) -> Any:
    """What the script gives, a server of these sessions being there while it runs."""
    seen = verdicts if verdicts is not None else []

    def observe(verdict: Verdict, _: float) -> None:
        seen.append(verdict)

    async def main() -> Any:
        async with asyncio.timeout(SECONDS), serve(sessions, ANY_PORT, observe) as server:
            return await asyncio.to_thread(script, server.endpoint)

    return asyncio.run(main())


def trains(endpoint: str, module: nn.Module, groups: Any = (), steps: int = 6) -> Training:
    with connect(endpoint, module, groups, patience=SECONDS / 4) as server:
        for inputs, targets in batches(steps):
            server.pull()
            loss = nn.functional.cross_entropy(module(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            server.push(loss, examples=len(targets))
        server.pull()
    return server


def alone(module: nn.Module, groups: Any, steps: int = 6) -> nn.Module:
    """The same steps without a server."""
    optimizer = torch.optim.SGD(groups, lr=GAMMA)
    for inputs, targets in batches(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module


def assert_alike(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, mine), yours in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        assert mine.float().numpy() == pytest.approx(yours.float().numpy(), rel=1e-4, abs=1e-6), (
            name
        )


def test_one_worker_of_one_is_plain_sgd_with_tied_frozen_and_double_parameters_and_buffers() -> (
    None
):
    module = seeded(Everything)
    reference = copy.deepcopy(module)
    frozen = module.frozen.weight.clone()  # type: ignore[union-attr, operator]
    ran(house(module), lambda endpoint: trains(endpoint, module))
    assert_alike(module, alone(reference, reference.parameters()))
    assert torch.equal(module.frozen.weight, frozen)  # type: ignore[union-attr, arg-type]
    assert module.b.weight is module.a.weight  # type: ignore[union-attr]


def test_a_kit_stands_for_an_endpoint_where_only_keys_are_let_in(tmp_path: Path) -> None:
    folder, kit, pair = Folder(tmp_path / "keys"), tmp_path / "mine.kit", new_pair()
    folder.make()
    folder.enroll(pair.public, Entry("worker", "mine"))
    locked = Locked(folder.pair.secret, folder.enrolled)

    async def main() -> None:
        sessions = house(seeded(Everything))
        async with asyncio.timeout(SECONDS), serve(sessions, ANY_PORT, locked=locked) as server:
            write_kit(kit, Kit(server.endpoint, "worker", Keys(folder.pair.public, *pair)))
            with pytest.raises((Denied, Unreachable), match="takes nobody without a key"):
                await asyncio.to_thread(trains, server.endpoint, seeded(Everything))
            await asyncio.to_thread(trains, str(kit), seeded(Everything))
            assert sessions.stats.total.admitted == 6

    asyncio.run(main())


def test_groups_are_those_of_an_optimizer() -> None:
    module = seeded(Everything)
    reference: Any = copy.deepcopy(module)
    ours: Any = module
    groups = [
        {"params": ours.out.parameters(), "rate": 3, "weight_decay": 0.1},
        {"params": ours.a.weight, "weight_decay": 0.5},
        {"params": ours.frozen.parameters(), "rate": 9},
    ]
    ran(house(module), lambda endpoint: trains(endpoint, module, groups))
    special = {*reference.out.parameters(), reference.a.weight}
    alone(
        reference,
        [
            {"params": [*reference.out.parameters()], "lr": 3 * GAMMA, "weight_decay": 0.1},
            {"params": [reference.a.weight], "weight_decay": 0.5},
            {"params": [p for p in reference.parameters() if p not in special]},
        ],
    )
    assert_alike(module, reference)


def test_the_growth_that_is_declared_is_that_of_what_was_pulled_and_pushed() -> None:
    module = seeded(Everything)
    named = trained(module)
    verdicts: list[Verdict] = []

    def script(endpoint: str) -> list[tuple[Any, Any]]:
        pairs = []
        with connect(endpoint, module) as server:
            for inputs, targets in batches(4):
                server.pull()
                nn.functional.cross_entropy(module(inputs), targets).backward()  # type: ignore[no-untyped-call]
                gradients = [p.grad for _, p in named if p.grad is not None]
                pairs.append(
                    (vector_of(named), np.concatenate([g.float().flatten() for g in gradients]))
                )
                server.push()
        return pairs

    pairs = ran(house(module), script, verdicts)
    assert np.isnan(verdicts[0].declared)
    for verdict, (old, new) in zip(verdicts[1:], pairwise(pairs), strict=True):
        (x_old, g_old), (x, g) = old, new
        growth = np.linalg.norm(g - g_old) / np.linalg.norm(x - x_old)
        assert verdict.declared == pytest.approx(growth, rel=1e-3)


def test_a_sparse_gradient_and_a_parameter_without_one_are_zeros_where_nothing_was_said() -> None:
    module = nn.ModuleDict({"used": nn.Embedding(5, 2, sparse=True), "unused": nn.Linear(2, 2)})
    before = copy.deepcopy(module.state_dict())

    def script(endpoint: str) -> None:
        with connect(endpoint, module) as server:
            server.pull()
            module["used"](torch.tensor([3])).sum().backward()
            server.push()
            server.pull()

    ran(house(module), script)
    moved = {name: (before[name] - value).abs() for name, value in module.state_dict().items()}
    expected = torch.zeros(5, 2)
    expected[3] = GAMMA
    assert torch.allclose(moved["used.weight"], expected)
    assert float(moved["unused.weight"].max()) == float(moved["unused.bias"].max()) == 0


def test_a_model_is_lent_until_it_is_answered_and_its_gradients_are_gone_at_the_next() -> None:
    module: Any = nn.Linear(1, 1, bias=False)

    def script(endpoint: str) -> list[int]:
        with connect(endpoint, module) as server:
            with pytest.raises(UsageError, match="no model to answer; pull first"):
                server.push()
            versions = [server.pull(), server.pull()]
            with pytest.raises(UsageError, match="call backward on the loss first"):
                server.push()
            module(torch.ones(1, 1)).sum().backward()
            module(torch.ones(1, 1)).sum().backward()  # two that make one answer
            before = module.weight.item()
            assert server.push(0.5).admitted
            versions.append(server.pull())
            assert module.weight.grad is None
            assert module.weight.item() == pytest.approx(before - 2 * GAMMA)
            return versions

    assert ran(house(module), script) == [0, 0, 1]


def test_the_goodbye_is_said_whatever_ends_the_block() -> None:
    """With one place, who comes next has it only if the one before has left."""
    module = seeded(Everything)

    def script(endpoint: str) -> None:
        for _ in range(2):
            with contextlib.suppress(ZeroDivisionError), connect(endpoint, module) as server:
                assert (server.worker, server.n, server.seed) == (0, 1, 1)
                raise ZeroDivisionError
        trains(endpoint, module)

    ran(house(module), script)


def test_the_block_ends_quietly_when_the_server_ends_the_run() -> None:
    module = seeded(Everything)
    sessions = house(module)
    ends = asyncio.Event()

    async def main() -> Training:
        async with asyncio.timeout(SECONDS):
            async with serve(sessions, ANY_PORT, lambda _, __: ends.set()) as server:
                script = asyncio.create_task(
                    asyncio.to_thread(trains, server.endpoint, module, (), 10**4)
                )
                await ends.wait()
                await server.drain(over=True)
            return await script

    assert asyncio.run(main()).ended == "the run is over"


def test_a_server_that_is_started_again_is_told_no_growth_from_before() -> None:
    module = seeded(Everything)
    first, verdicts = house(module), list[Verdict]()

    async def main() -> None:
        steps = asyncio.Event()

        def seen(verdict: Verdict, _: float) -> None:
            verdicts.append(verdict)
            if len(verdicts) == 3:
                steps.set()

        async with asyncio.timeout(SECONDS):
            async with serve(first, ANY_PORT, seen) as server:
                script = asyncio.create_task(
                    asyncio.to_thread(trains, server.endpoint, module, (), 10**4)
                )
                await steps.wait()
                await server.drain(over=False)
                state, endpoint = first.state(), server.endpoint
            again = house(module)
            again.restore(state, 0.0)
            steps.clear()
            verdicts.clear()
            async with serve(again, endpoint, seen) as server:
                await steps.wait()
                await server.drain(over=True)
            await script

    asyncio.run(main())
    assert all(verdict.admitted for verdict in verdicts)
    assert [np.isnan(verdict.declared) for verdict in verdicts[:3]] == [True, False, False]


# --- what goes wrong is one sentence ---


def test_nobody_there_no_place_left_and_no_endpoint_are_told_apart() -> None:
    module = seeded(Everything)

    def script(endpoint: str) -> None:
        with (
            connect(endpoint, module),
            pytest.raises(Denied, match="workers are taken"),
            connect(endpoint, module),
        ):
            pass

    ran(house(module), script)
    with (
        pytest.raises(Unreachable, match="nobody listens there"),
        connect("tcp://127.0.0.1:1", module),
    ):
        pass
    with pytest.raises(UsageError, match="expected an endpoint like"), connect("here", module):
        pass


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (
            lambda: nn.Linear(4, 3),
            "15 trained numbers here, and 10 at the server; the first difference: here is 'bias'"
            " of shape (3,) where the server has 'bias' of shape (2,)",
        ),
        (
            lambda: nn.Linear(4, 2, bias=False),
            "8 trained numbers here, and 10 at the server; the first difference: here is 'weight'"
            " of shape (2, 4) where the server has 'bias' of shape (2,)",
        ),
        (
            lambda: nn.Bilinear(4, 2, 2),
            "18 trained numbers here, and 10 at the server; the first difference: here is 'weight'"
            " of shape (2, 4, 2) where the server has 'weight' of shape (2, 4)",
        ),
        (lambda: nn.Linear(4, 2).requires_grad_(False), "no parameter that requires a gradient"),
    ],
)
def test_another_model_than_the_servers_is_told_by_both_sizes_and_the_first_difference(
    ours: Callable[[], nn.Module], words: str
) -> None:
    def script(endpoint: str) -> None:
        with pytest.raises(TaskError) as error, connect(endpoint, ours()):
            pass
        assert words in str(error.value)
        trains(endpoint, theirs)  # and its place is free

    theirs = nn.Linear(4, 2)
    ran(house(theirs), script)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([{"rate": 2}], r"groups\[0\]: the key 'params' is needed"),
        ([{"params": [], "lr": 2}], r"groups\[0\]: unknown key 'lr'"),
        ([{"params": [], "rate": 0}], "expected 0 < rate < inf, got 0"),
        ([{"params": [], "weight_decay": -1}], "expected 0 <= weight_decay < inf, got -1"),
        ([{"params": [nn.Parameter(torch.ones(1))]}], "a parameter that is not the module's"),
    ],
)
def test_a_group_that_cannot_be_is_one_sentence(groups: Any, words: str) -> None:
    module = nn.Linear(1, 1)

    def script(endpoint: str) -> None:
        with pytest.raises(UsageError, match=words), connect(endpoint, module, groups):
            pass
        twice: list[dict[str, Any]] = [{"params": module.parameters()}, {"params": module.weight}]
        with (
            pytest.raises(UsageError, match="stands in a group already"),
            connect(endpoint, module, twice),
        ):
            pass

    ran(house(module), script)


def test_what_a_server_would_not_understand_is_not_said_to_it() -> None:
    module = nn.Linear(1, 1)

    def script(endpoint: str) -> None:
        for label in ("x" * 129, "two\nlines"):
            with pytest.raises(UsageError, match="label: expected at most 128 printable"):
                connect(endpoint, module, label=label).__enter__()
        with connect(endpoint, module, label="x" * 128) as server:
            server.pull()
            module(torch.ones(1)).backward()
            with pytest.raises(UsageError, match="push: expected examples >= 0, got -1"):
                server.push(examples=-1)
            assert server.push(loss=1, examples=8).admitted

    ran(house(module), script)


# --- there and back ---


def test_a_module_becomes_a_file_a_server_a_checkpoint_and_a_module_again(tmp_path: Path) -> None:
    module = seeded(Everything)
    named = trained(module)
    checkpoint.save_model(tmp_path / "model.safetensors", manifest_of(named), vector_of(named))
    manifest, x = checkpoint.load(tmp_path / "model.safetensors")
    assert manifest == manifest_of(named)
    assert np.array_equal(x, vector_of(named))
    recipe = Recipe.of(n=1, preset="none")
    sessions = daemon.house(recipe, x, manifest, seed=1, task="")
    ran(sessions, lambda endpoint: trains(endpoint, module))
    checkpoint.save(tmp_path / "7", manifest, sessions.descent.model.x, {})
    again = seeded(Everything)  # with the same frozen parameters, and running statistics of none
    held = load_file(tmp_path / "7" / checkpoint.MODEL)
    missing, unexpected = again.load_state_dict(held, strict=False)
    assert unexpected == []
    assert set(missing) == {
        *("b.weight", "frozen.weight", "frozen.bias"),
        *("norm.running_mean", "norm.running_var"),
    }
    inputs, _ = batches(1)[0]
    assert torch.allclose(again.train()(inputs), module.train()(inputs), atol=1e-6)
