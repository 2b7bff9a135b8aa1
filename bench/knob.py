"""What does safety cost? The assumed f is the knob, from throwing nothing away to all that n bear.

    python -m bench.knob --out knob.json --picture knob.png

Simulated clusters of 20 workers on virtual time, of whom nobody or three lie, under `middle`, whose
price theory knows. Some two minutes.
"""

import json
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import torch

from kardam.filters import tolerated
from kardam.recipe import Recipe
from workers.crew import crew
from workers.objective import Network
from workers.simulation import hire, secrets, simulate
from workers.tasks import load_task

N, LIARS = 20, 3
LATENCY = "lognormal:mean=1,sigma=0.5"
ATTACKS = ("no attack", "sign_flip:scale=10", "sign_flip:scale=1")
# Okabe and Ito's colours, which the colour-blind can tell apart; markers say the same in print.
LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"))


class Trial(NamedTuple):
    """One run; the shares are those admitted of honest and of lying work after the start-up."""

    attack: str
    f: int
    seed: int
    accuracy: float
    honest: float
    byzantine: float


def bounds(n: int, f: int, liars: int) -> tuple[float, float]:
    """Between which shares of honest work the middle band admits (Kardam, theorem on the slowdown,
    with as many liars as there are in place of f): it keeps n - 2f growths, of which liars hold
    from none to all their own.
    """
    kept, honest = n - 2 * f, n - liars
    return max(kept - liars, 0) / honest, min(kept / honest, 1.0)


def trial(attack: str, f: int, seed: int, arrivals: int) -> Trial:
    liars = 0 if attack == "no attack" else LIARS
    lie = {"attack": attack} if liars else {}
    members = crew(n=N, seed=seed, byzantine=liars, latency=LATENCY, **lie)
    network = Network(load_task("digits", seed))
    descent = Recipe.of(N, preset="middle", f=f).descent(network.x, chance=secrets(seed))
    admitted: dict[bool, list[bool]] = {True: [], False: []}
    for _, verdict in islice(simulate(descent, hire(members, network, seed)), arrivals):
        if verdict.rule != "startup":
            admitted[members[verdict.worker].byzantine].append(verdict.admitted)
    honest, byzantine = (
        sum(own) / len(own) if own else 0.0 for own in (admitted[False], admitted[True])
    )
    accuracy = network.evaluate(descent.model.x)[1]
    return Trial(attack, f, seed, accuracy, honest, byzantine)


def of(trials: Sequence[Trial], attack: str, f: int) -> list[Trial]:
    return [trial for trial in trials if (trial.attack, trial.f) == (attack, f)]


def table(trials: Sequence[Trial], fs: Sequence[int]) -> list[str]:
    """Markdown, in medians over the seeds."""
    heads = [f"{attack}: accuracy | honest admitted | liars'" for attack in ATTACKS[1:]]
    head = " | ".join([f"f | {ATTACKS[0]}: accuracy | honest admitted (bound)", *heads])
    lines = [f"| {head} |", "|---" * 9 + "|"]
    for f in fs:
        free = of(trials, ATTACKS[0], f)
        row = [
            str(f),
            f"{median(t.accuracy for t in free):.3f}",
            f"{median(t.honest for t in free):.2f} ({(N - 2 * f) / N:.2f})",
        ]
        for attack in ATTACKS[1:]:
            own = of(trials, attack, f)
            row += [
                f"{median(t.accuracy for t in own):.3f}",
                f"{median(t.honest for t in own):.2f}",
                f"{median(t.byzantine for t in own):.2f}",
            ]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def draw(trials: Sequence[Trial], fs: Sequence[int], path: Path) -> None:
    """Two panels: what f buys, and what it costs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    safety, price = figure.subplots(1, 2)
    for attack, (colour, marker) in zip(ATTACKS, LOOKS, strict=True):
        label = attack if attack == ATTACKS[0] else f"{LIARS} send {attack}"
        for panel, key in ((safety, "accuracy"), (price, "honest")):
            values = [[float(getattr(t, key)) for t in of(trials, attack, f)] for f in fs]
            middle = [median(own) for own in values]
            below = [m - min(own) for m, own in zip(middle, values, strict=True)]
            above = [max(own) - m for m, own in zip(middle, values, strict=True)]
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
            panel.errorbar(fs, middle, [below, above], capsize=2, lw=1.2, label=label, **style)
    low, high = zip(*(bounds(N, f, LIARS) for f in fs), strict=True)
    price.fill_between(fs, low, high, color="0.85", label=f"theory, {LIARS} liars")
    price.plot(fs, [(N - 2 * f) / N for f in fs], "k--", lw=1, label="theory, no liar: 1 − 2f/n")
    for panel, name, letter in ((safety, "accuracy, held out", "a"), (price, "share", "b")):
        panel.set_xlabel(f"f, workers assumed to lie (of n = {N})")
        panel.set_ylabel(name if letter == "a" else "share of honest gradients admitted")
        panel.set_title(f"({letter})", loc="left", fontsize=10)
        panel.set_ylim(0, 1.03)
        panel.set_xticks(list(fs))
        panel.grid(color="0.93")
        panel.legend(
            fontsize=7, frameon=False, loc="lower right" if letter == "a" else "lower left"
        )
    safety.axvline(LIARS, color="0.6", lw=1, ls=":")
    safety.annotate("as many as lie", (LIARS, 0.55), fontsize=7, rotation=90, ha="right")
    figure.savefig(path, dpi=200)


@click.command()
@click.option("--arrivals", default=3000, show_default=True, help="Gradients a run.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write every trial (JSON).")
@click.option("--picture", type=click.Path(path_type=Path), help="Where to draw it (PNG, PDF).")
def main(arrivals: int, seeds: int, out: Path | None, picture: Path | None) -> None:
    """Accuracy under attack, and honest work admitted, by the assumed f."""
    torch.set_num_threads(1)
    fs = range(tolerated(N) + 1)
    trials = [
        trial(attack, f, seed, arrivals) for attack, f, seed in product(ATTACKS, fs, range(seeds))
    ]
    print(*table(trials, fs), sep="\n")
    if out is not None:
        out.write_text(json.dumps([trial._asdict() for trial in trials], indent=1) + "\n")
    if picture is not None:
        draw(trials, fs, picture)


if __name__ == "__main__":
    main()
