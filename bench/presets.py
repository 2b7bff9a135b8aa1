"""What do three liars of ten do to each preset, over real sockets?

    python -m bench.presets

Runs `kardam run` once for every cell, on scikit-learn's digits, and prints a table in Markdown.
"""

import json
import subprocess
import sys
import tempfile

import click

PRESETS = ("none", "paper", "middle", "consensus")
ATTACKS = ("no attack", "sign_flip:scale=10", "constant", "label_flip")


def cell(preset: str, attack: str, arrivals: int, seed: int) -> float:
    """The final held-out accuracy of one run."""
    liars = [] if attack == "no attack" else ["--byzantine", "3", "--attack", attack]
    words = ["run", "--quiet", "--json", "--workers", "10", "--stragglers", "2:factor=10"]
    words += ["--preset", preset, "--arrivals", str(arrivals), "--seed", str(seed), *liars]
    with tempfile.TemporaryDirectory() as folder:
        words += ["--out", f"{folder}/run"]
        ran = subprocess.run(
            [sys.executable, "-m", "workers", *words], capture_output=True, text=True, check=False
        )
    if ran.returncode not in (0, 4):  # a stalled run has an accuracy, too
        raise SystemExit(ran.stderr)
    return float(json.loads(ran.stdout)["accuracy"])


@click.command()
@click.option("--arrivals", default=6000, show_default=True, help="Gradients a run.")
@click.option("--seed", default=0, show_default=True)
def main(arrivals: int, seed: int) -> None:
    """Accuracy with 3 of 10 liars and 2 stragglers, by preset and attack."""
    print(f"| preset | {' | '.join(ATTACKS)} |")
    print("|---" * (len(ATTACKS) + 1) + "|")
    for preset in PRESETS:
        row = [f"{cell(preset, attack, arrivals, seed):.3f}" for attack in ATTACKS]
        print(f"| `{preset}` | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
