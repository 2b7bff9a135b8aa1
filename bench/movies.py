"""Do twenty accounts of a thousand push one film to the top of a recommender?

    python -m bench.movies                  made-up ratings, in some five minutes
    python -m bench.movies --path u.data --accounts 943       MovieLens 100K's

Matrix factorization, an account a worker, on virtual time. Two ways to push a film that few have
rated: a vector that says nothing else (`alone`), and one that is added to the honest gradient
(`hidden`). The rank is by the mean over accounts of what they would rate, 1 the best; the error is
the root of the held-out mean square, over all ratings.
"""

import argparse
from itertools import islice

from kardam.recipe import Recipe
from workers.crew import crew
from workers.examples.movies import Factors
from workers.objective import Network
from workers.simulation import hire, simulate
from workers.tasks import load_task

PUSHERS = 20
ROUNDS = 20
RATE = "constant:gamma=0.02"
LATENCY = "lognormal:mean=0.02,sigma=0.5"

PRESETS = ("none", "middle", "consensus")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--path", help="ratings in the format of MovieLens's u.data")
    parser.add_argument("--accounts", type=int, default=1000, help="n: one worker each")
    parser.add_argument("--film", type=int, default=250, help="which one is pushed, from 0")
    parser.add_argument("--scale", type=float, default=2.0, help="how hard")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    source = f"path={given.path}" if given.path else f"accounts={given.accounts}"
    push = f"workers.examples.movies:Push:film={given.film},scale={given.scale}"
    attacks = {"no attack": None, "alone": f"{push},alone=true", "hidden": push}
    print("| preset | push | rank of the film | error | honest admitted | pushers admitted |")
    print("|---|---|---|---|---|---|")
    for preset in given.presets:
        for name, attack in attacks.items():
            print(f"| {preset} | {name} |", one(source, preset, attack, given), flush=True)


def one(source: str, preset: str, attack: str | None, given: argparse.Namespace) -> str:
    """The cells of one run."""
    network = Network(load_task(f"workers.examples.movies:ratings:{source}", given.seed))
    model = network.task.model
    assert isinstance(model, Factors)
    recipe = Recipe.of(n=given.accounts, preset=preset, rate=RATE)
    members = crew(
        n=recipe.n,
        byzantine=PUSHERS if attack else 0,
        attack=attack or "zero",
        latency=LATENCY,
        seed=given.seed,
    )
    workers = hire(members, network, given.seed, "workers.examples.movies:accounts")
    descent = recipe.descent(network.x)
    delivered, admitted = {False: 0, True: 0}, {False: 0, True: 0}
    for _, verdict in islice(simulate(descent, workers), ROUNDS * recipe.n):
        lies = members[verdict.worker].byzantine
        delivered[lies] += 1
        admitted[lies] += verdict.admitted
    loss, _ = network.evaluate(descent.model.x)
    rank = model.by_rank().index(given.film) + 1
    shares = [
        f"{admitted[lies] / delivered[lies]:.2f}" if delivered[lies] else "-"
        for lies in (False, True)
    ]
    return f"{rank} of {len(model.b_films)} | {loss**0.5:.3f} | {shares[0]} | {shares[1]} |"


if __name__ == "__main__":
    main()
