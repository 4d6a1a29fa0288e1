"""Does the default run learn, for each seed, on tasks it never trained on? And its null controls?

    python benchmarks/learn_default.py --seeds 0,1,2
    python benchmarks/learn_default.py --seeds 0 --null lr0

One JSON line a run, then a table, then a last line with "pass". Exit code 1 when the claim fails.
A null control passes when it does NOT learn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from palaestra.train import config as settings
from palaestra.train.checkpoint import best as best_checkpoint
from palaestra.train.console import Console
from palaestra.train.loop import train
from palaestra.train.metrics import read

RESULTS = Path(__file__).parent / "results" / "learn_default.md"
NULLS = ("lr0", "shuffle", "random_reward")
NULL_ITERATIONS = 40


def run(seed: int, null: str, quick: bool, folder: Path) -> dict[str, object]:
    overrides = {"seed": str(seed)}
    if null != "none":
        # a null is judged after 40 iterations, without the best-of-many that keeping would be
        overrides |= {
            "train.null": null,
            "train.iterations": str(NULL_ITERATIONS),
            "train.keep": "last",
        }
    config = settings.load(None, overrides, preset="drill-code", quick=quick)
    run_dir = folder / f"{null}-{seed}"
    began, cpu = time.perf_counter(), time.process_time()
    summary = train(config, run_dir, console=Console(quiet=True))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    rows = read(run_dir)
    last = rows[-10:]
    half = next((row["iteration"] for row in rows if row["train/success"] >= 0.5), None)
    greedy, sampled = (summary.evaluations[name]["success"] for name in ("greedy", "sampled"))
    found = best_checkpoint(run_dir)
    return {
        "null": null,
        "seed": seed,
        "iterations": summary.iteration,
        "kept": found.iteration if found else summary.iteration,
        "greedy": round(greedy.value, 4),
        "sampled": round(sampled.value, 4),
        "greedy_interval": [round(greedy.low, 3), round(greedy.high, 3)],
        "frac": round(sum(row["train/frac"] for row in last) / len(last), 4),
        "success": round(sum(row["train/success"] for row in last) / len(last), 4),
        "half_by": half,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
    }


def judge(row: dict[str, object], quick: bool) -> bool:
    if row["null"] != "none":
        return float(str(row["frac"])) <= 0.15 and float(str(row["greedy"])) <= 0.01
    if quick:
        return float(str(row["frac"])) >= 0.9 and float(str(row["success"])) >= 0.65
    reached = row["half_by"] is not None and int(str(row["half_by"])) <= 90
    return float(str(row["greedy"])) >= 0.93 and float(str(row["sampled"])) >= 0.88 and reached


COLUMNS = (
    "null",
    "seed",
    "greedy",
    "sampled",
    "frac",
    "success",
    "half_by",
    "kept",
    "iterations",
    "wall_seconds",
    "cpu_seconds",
)


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " | pass |", "|" + "---|" * (len(COLUMNS) + 1)]
    for row in rows:
        cells = [str(row[name]) for name in COLUMNS]
        lines.append("| " + " | ".join([*cells, "yes" if row["pass"] else "NO"]) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="run seeds, as 0,1,2")
    parser.add_argument("--null", default="none", choices=("none", *NULLS), help="a null control")
    parser.add_argument("--quick", action="store_true", help="level 1, 80 iterations")
    parser.add_argument("--runs", type=Path, help="keep the run folders here")
    parser.add_argument("--write", action="store_true", help="add the table to the results file")
    args = parser.parse_args()
    folder = args.runs or Path(tempfile.mkdtemp(prefix="palaestra-learn-"))
    rows: list[dict[str, object]] = []
    try:
        for seed in map(int, args.seeds.split(",")):
            row = run(seed, args.null, args.quick, folder)
            row["pass"] = judge(row, args.quick)
            rows.append(row)
            print(json.dumps(row), flush=True)
    finally:
        if args.runs is None:
            shutil.rmtree(folder, ignore_errors=True)
    passed = all(bool(row["pass"]) for row in rows)
    print(table(rows))
    print(json.dumps({"claim": "quick" if args.quick else "default", "pass": passed}))
    if args.write:
        words = ["--seeds", args.seeds] + (["--null", args.null] if args.null != "none" else [])
        words += ["--quick"] if args.quick else []
        command = " ".join(["python benchmarks/learn_default.py", *words])
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(f"\n`{command}`\n\n{table(rows)}\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
