"""Sampling beside Hugging Face `generate`, in one process, in CPU time of one thread.

    python benchmarks/rollout.py [--rounds 3] [--compiled] [--write]

A random Llama of 2.9 million weights (hidden 256, 4 layers). Four claims: decode at batch 1, 16, 64
and 256; rows of uneven length; several turns with the keys and values kept; a group that shares its
prompt. Each figure is the best of some rounds, ours and theirs in turn; the aims are those of the
design for a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from palaestra.agents.chat import Chat, Kind
from palaestra.agents.core import Ask, Key, Seat
from palaestra.agents.language_model import LanguageModel, quiet
from palaestra.agents.sampling import Sampler
from palaestra.testing import tiny_llm

RESULTS = Path(__file__).parent / "results" / "rollout.md"
NEVER = -1  # an end-of-turn id that no model draws: every row runs to its length
Case = tuple[str, Callable[[], float]]  # name, one run -> tokens a second


def policy(folder: Path, dtype: str = "float32", **options: Any) -> Sampler:
    """Ours, with an end that never comes."""
    made = LanguageModel.load(folder, dtype=cast(Any, dtype), **options)
    cast(Any, made.tokenizer).end_of_turn = NEVER
    return made


def peer(folder: Path) -> Any:
    """Theirs."""
    from transformers import AutoModelForCausalLM

    with quiet():
        model = cast(Any, AutoModelForCausalLM).from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    return model


def ask(owner: Sampler, row: int, prompt: Sequence[int], length: int) -> Ask:
    """An ask behind a prompt of given ids."""
    seat = Seat(Key(0, 0, row))
    chat = Chat.for_(owner, seat)
    chat.context.append(list(prompt), Kind.PROMPT)
    return Ask(owner, chat, key=seat.key, max_tokens=length)


def drop(owner: Sampler) -> None:
    """Forget every session."""
    owner.load({}, owner.version + 1)


def generate(model: Any, prompts: torch.Tensor, length: int) -> Any:
    """Sample `length` tokens behind each prompt."""
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        top_k=0,
        max_new_tokens=length,
        min_new_tokens=length,
        pad_token_id=0,
    )


def rate(tokens: int, run: Callable[[], object]) -> float:
    """Tokens a second of CPU time."""
    start = time.process_time()
    run()
    return tokens / (time.process_time() - start)


def best(cases: Sequence[Case], rounds: int) -> dict[str, float]:
    """The best of each case over rounds in which all take turns."""
    found = {name: 0.0 for name, _ in cases}
    for _ in range(rounds):
        for name, run in cases:
            found[name] = max(found[name], run())
    return found


def decode(ours: dict[str, Sampler], theirs: Any, rounds: int) -> list[str]:
    """Prompt 32, 96 tokens more, batch 1 to 256."""
    head = ["batch", "generate", *ours, "best / generate", "aim"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for batch in (1, 16, 64, 256):
        prompts = torch.randint(10, 480, (batch, 32), generator=torch.Generator().manual_seed(0))

        def own(name: str, prompts: torch.Tensor = prompts, batch: int = batch) -> float:
            owner = ours[name]
            asks = [ask(owner, i, prompt, 96) for i, prompt in enumerate(prompts.tolist())]
            drop(owner)
            return rate(96 * batch, lambda: owner.act(asks))

        def other(prompts: torch.Tensor = prompts, batch: int = batch) -> float:
            return rate(96 * batch, lambda: generate(theirs, prompts, 96))

        cases: list[Case] = [("generate", other)]
        cases += [(name, lambda name=name, own=own: own(name)) for name in ours]
        got = best(cases, rounds)
        top = max(got[name] for name in ours) / got["generate"]
        cells = [
            str(batch),
            *(f"{got[n]:,.0f}" for n in ("generate", *ours)),
            f"{top:.2f}x",
            "2.5x",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def uneven(ours: Sampler, theirs: Any, rounds: int) -> tuple[float, float]:
    """256 rows of mean 49, at most 192 tokens: 64 slots against four batches of 64."""
    rng = np.random.Generator(np.random.PCG64(0))
    lengths = np.minimum(192, 1 + rng.geometric(1 / 49, 256)).tolist()
    prompts = torch.randint(10, 480, (256, 32), generator=torch.Generator().manual_seed(0))

    def own() -> float:
        rows = zip(prompts.tolist(), lengths, strict=True)
        asks = [ask(ours, i, prompt, length) for i, (prompt, length) in enumerate(rows)]
        drop(ours)
        return rate(sum(lengths), lambda: ours.act(asks))

    def other() -> float:
        def run() -> None:
            for start in range(0, 256, 64):
                part = slice(start, start + 64)
                generate(theirs, prompts[part], max(lengths[part]))

        return rate(sum(lengths), run)

    got = best([("ours", own), ("theirs", other)], rounds)
    return got["ours"], got["theirs"]


def turns(ours: Sampler, theirs: Any, rounds: int) -> tuple[float, float]:
    """32 conversations of 8 turns, 48 tokens heard and 32 said: kept against computed anew."""
    batch, count, heard, said = 32, 8, 48, 32
    news = torch.randint(10, 480, (count, batch, heard), generator=torch.Generator().manual_seed(0))

    def own() -> float:
        drop(ours)
        seats = [Seat(Key(0, 0, i)) for i in range(batch)]
        chats = [Chat.for_(ours, seat) for seat in seats]

        def run() -> None:
            for turn in range(count):
                for chat, ids in zip(chats, news[turn].tolist(), strict=True):
                    chat.context.append(ids, Kind.OBSERVATION)
                asks = [Ask(ours, chat, key=chat.seat.key, max_tokens=said) for chat in chats]
                for chat, action in zip(chats, ours.act(asks), strict=True):
                    chat.context.append(action.tokens.tolist(), Kind.ACTION)

        return rate(batch * count * said, run)

    def other() -> float:
        def run() -> None:
            rows = torch.zeros((batch, 0), dtype=torch.int64)
            for turn in range(count):
                rows = generate(theirs, torch.cat([rows, news[turn]], 1), said)

        return rate(batch * count * said, run)

    got = best([("ours", own), ("theirs", other)], rounds)
    return got["ours"], got["theirs"]


def group(ours: Sampler, theirs: Any, rounds: int) -> tuple[float, float]:
    """4 prompts of 480 tokens, 16 attempts each, up to the first token."""
    prompts = torch.randint(10, 480, (4, 480), generator=torch.Generator().manual_seed(0))
    every = prompts.repeat_interleave(16, 0)

    def own() -> float:
        asks = [ask(ours, i, prompt, 1) for i, prompt in enumerate(every.tolist())]
        drop(ours)
        return rate(every.numel(), lambda: ours.act(asks))

    def other() -> float:
        return rate(every.numel(), lambda: generate(theirs, every, 1))

    got = best([("ours", own), ("theirs", other)], rounds)
    return got["ours"], got["theirs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compiled", action="store_true", help="also with compiled layers")
    parser.add_argument("--write", action="store_true", help=f"keep the table as {RESULTS.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = tiny_llm.build(
            Path(name), width=256, layers=4, heads=4, kv_heads=4, context=1024, vocab=512
        )
        ours = {
            "eager float32": policy(folder),
            "eager bfloat16": policy(folder, "bfloat16"),
        }
        if options.compiled:
            ours["compiled float32"] = policy(folder, compiled=True)
            ours["compiled bfloat16"] = policy(folder, "bfloat16", compiled=True)
        theirs = peer(folder)
        lines = [
            "# Sampling beside Hugging Face generate",
            "",
            f"`python benchmarks/rollout.py {' '.join(sys.argv[1:])}`".replace(" `", "`"),
            "",
            f"Tokens a second of CPU time, one thread, best of {options.rounds} rounds; "
            f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; "
            f"torch {torch.__version__}.",
            "",
            *decode(ours, theirs, options.rounds),
            "",
            "| workload | theirs | ours | ratio | aim |",
            "|---|---|---|---|---|",
        ]
        plain = policy(folder, slots=64)
        for title, run, aim in (
            ("uneven lengths, 256 rows", uneven, 3),
            ("8 turns of 48 + 32, 32 rows", turns, 3),
            ("group of 16 on 480 tokens", group, 10),
        ):
            mine, other = run(plain, theirs, options.rounds)
            lines.append(f"| {title} | {other:,.0f} | {mine:,.0f} | {mine / other:.2f}x | {aim}x |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
