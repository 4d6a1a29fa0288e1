"""Draw the curves of default runs from their folders.

    python benchmarks/learn_default.py --seeds 0,1,2 --runs /tmp/default
    python benchmarks/plot_default.py /tmp/default/none-* --out docs/images/default_run.png

Each folder is a run: metrics.jsonl gives the curve, config.toml the switch of the curriculum.
Needs matplotlib (the extra `plot`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from palaestra.train import config
from palaestra.train.metrics import read

PANELS = (("train/success", "success"), ("train/frac", "fraction of functions solved"))
COLOURS = ("#1b6ca8", "#d1603d", "#3c8d5a", "#7a5195", "#8c6d31")
WINDOW = 5  # iterations of the running mean; the thin line is what was measured


def smooth(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Mean of each value and those before it, at most `window` of them."""
    return [
        sum(part) / len(part)
        for part in (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))
    ]


def switches(run: Path) -> list[tuple[int, str]]:
    """Last iteration of each stage but the last, and what the next one changes."""
    stages = config.load_run(run).curriculum.stage
    return [
        (one.until_iteration, ", ".join(f"{key} = {value}" for key, value in two.options.items()))
        for one, two in pairwise(stages)
    ]


def draw(runs: Sequence[Path], out: Path) -> None:
    """One panel a figure, one colour a run."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9.0, 3.2), sharey=True, dpi=150)
    for axis, (tag, title) in zip(axes, PANELS, strict=True):
        for run, colour in zip(runs, COLOURS, strict=False):
            rows = [row for row in read(run) if row.get(tag) is not None]
            x, y = [row["iteration"] for row in rows], [row[tag] for row in rows]
            seed = config.load_run(run).seed
            axis.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(x, smooth(y), color=colour, linewidth=1.6, label=f"seed {seed}")
        for at, words in switches(runs[0]):
            axis.axvline(at, color="#555555", linewidth=0.9, linestyle="--")
            axis.annotate(
                words,
                (at, 0.03),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                color="#555555",
            )
        axis.set(title=title, xlabel="iteration", ylim=(0, 1.02))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="upper left")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path("docs/images/default_run.png"))
    args = parser.parse_args()
    if not args.runs:  # as `make bench` calls every file
        print("nothing to draw: give the folders of runs")
        return 0
    if len(args.runs) > len(COLOURS):
        parser.error(f"got {len(args.runs)} runs; give at most {len(COLOURS)}")
    draw(sorted(args.runs), args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
