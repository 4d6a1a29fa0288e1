"""One gradient of packed rows beside the padded one of Hugging Face, in CPU time of one thread.

    python benchmarks/update.py [--rounds 3] [--write]

A random Llama of 2.9 million weights; 64 rows of uneven length, one of them long. The loss is the
mean negative log-probability of the second half of each row. Loss and gradients must be equal to
1e-5 of their size; the ratio of times is the claim.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from palaestra.agents.core import Rows, Transform, Want
from palaestra.agents.language_model import LanguageModel, quiet
from palaestra.agents.sampling import Sampler
from palaestra.testing import tiny_llm
from torch.nn.functional import cross_entropy

RESULTS = Path(__file__).parent / "results" / "update.md"


def lengths() -> list[int]:
    """64 lengths, mean 96, at most 443: a fifth of the padded block is real."""
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = np.minimum(443, 8 + rng.gamma(0.9, 95, 64)).astype(int)
    drawn[0] = 443
    return drawn.tolist()


def packed(sizes: list[int], ids: np.ndarray[Any, Any]) -> Rows:
    """The rows as a learner gets them."""
    offsets = np.cumsum([0, *sizes])
    action = [np.arange(a + n // 2, a + n) for a, n in zip(offsets, sizes, strict=False)]
    places = np.concatenate(action)
    tokens = ids.astype(np.int32)
    return Rows(tokens, offsets.astype(np.int32), places, Transform.plain(len(places)))


def own(policy: Sampler, rows: Rows) -> torch.Tensor:
    """Our loss, with its gradient."""
    for parameter in policy.parameters():
        parameter.grad = None
    loss = -policy.score(rows, Want(entropy=False, heads=False)).logprobs.mean()
    loss.backward()
    return loss.detach()


def padded(model: Any, rows: Rows, sizes: list[int]) -> torch.Tensor:
    """Their loss, with its gradient."""
    model.zero_grad()
    block = torch.full((len(sizes), max(sizes)), 0)
    labels = torch.full_like(block, -100)
    mask = torch.zeros_like(block)
    for i, (start, size) in enumerate(zip(rows.offsets.tolist(), sizes, strict=False)):
        block[i, :size] = torch.from_numpy(rows.tokens[start : start + size].astype(np.int64))
        labels[i, size // 2 : size] = block[i, size // 2 : size]
        mask[i, :size] = 1
    logits = model(input_ids=block, attention_mask=mask).logits[:, :-1]
    loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    loss.backward()
    return loss.detach()


def seconds(run: Callable[[], object]) -> float:
    """CPU time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def gap(policy: Sampler, model: Any) -> float:
    """Largest difference of a gradient, relative to the largest gradient of its matrix."""
    theirs = {name: p.grad for name, p in model.named_parameters()}
    body = cast(Any, policy.model)
    with torch.no_grad():
        kept = [p.detach().clone() for p in body.parameters()]
        for parameter in body.parameters():
            parameter.copy_(parameter.grad if parameter.grad is not None else parameter * 0)
        mine = {name: x.clone() for name, x in body.export().items()}
        for parameter, old in zip(body.parameters(), kept, strict=True):
            parameter.copy_(old)
    shared = [name for name in mine if name in theirs and "embed" not in name]
    return max(
        float((mine[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in shared
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"keep the table as {RESULTS.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = lengths()
    ids = np.random.Generator(np.random.PCG64(1)).integers(10, 480, sum(sizes))
    rows = packed(sizes, ids)
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_llm.build(
            Path(name), width=256, layers=4, heads=4, kv_heads=4, context=512, vocab=512
        )
        full = LanguageModel.load(folder)
        half = LanguageModel.load(folder, dtype="bfloat16")
        from transformers import AutoModelForCausalLM

        with quiet():
            model = cast(Any, AutoModelForCausalLM).from_pretrained(folder).eval()
        losses = own(full, rows), padded(model, rows, sizes)
        difference = float((losses[0] - losses[1]).abs() / losses[1])
        cases: dict[str, Callable[[], object]] = {
            "Hugging Face, padded, float32": lambda: padded(model, rows, sizes),
            "packed, float32": lambda: own(full, rows),
            "packed, bfloat16 matrices": lambda: own(half, rows),
        }
        gradients = gap(full, model)
        times = dict.fromkeys(cases, float("inf"))
        for _ in range(options.rounds):
            for title, run in cases.items():
                times[title] = min(times[title], seconds(run))
    text = report(times, sizes, options.rounds, (difference, gradients))
    print(text)
    if options.write:
        RESULTS.write_text(text)


def report(
    times: dict[str, float], sizes: list[int], rounds: int, gaps: tuple[float, float]
) -> str:
    """The page."""
    base = times["Hugging Face, padded, float32"]
    lines = [
        "# A packed update beside the padded one",
        "",
        f"`python benchmarks/update.py {' '.join(sys.argv[1:])}`".replace(" `", "`"),
        "",
        f"64 rows, {sum(sizes):,} tokens, longest {max(sizes)}; real share of the padded block "
        f"{sum(sizes) / (64 * max(sizes)):.3f}. CPU time of one thread, best of {rounds} "
        f"rounds; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; "
        f"torch {torch.__version__}.",
        "",
        "| variant | seconds | tokens/s | ratio | aim |",
        "|---|---|---|---|---|",
        *(
            f"| {title} | {spent:.2f} | {sum(sizes) / spent:,.0f} | {base / spent:.2f}x | "
            f"{'' if title.startswith('Hugging') else '6x'} |"
            for title, spent in times.items()
        ),
        "",
        f"Loss equal to {gaps[0]:.1e}, gradients to {gaps[1]:.1e} of their size (aim 1e-5).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
