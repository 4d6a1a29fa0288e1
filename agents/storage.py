"""A model as a folder: what `save_pretrained` would write, with heads and tokenizer beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import torch as tensors
from torch import Tensor

from .heads import Head, Heads, heads_from

HEADS, HEAD_NAMES = "heads.safetensors", "heads.json"


def save_tensors(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write `model.safetensors`."""
    whole = {name: x.detach().contiguous().clone() for name, x in state.items()}
    tensors.save_file(whole, folder / "model.safetensors", {"format": "pt"})


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name."""
    return tensors.load_file(file)


def write_json(path: Path, content: object) -> None:
    """Write a file that a person can read."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def save_heads(heads: Heads, folder: Path) -> None:
    """Write the heads beside a model, in files that `transformers` does not look at."""
    if heads.heads:
        tensors.save_file(
            {k: v.contiguous() for k, v in heads.state_dict().items()}, folder / HEADS
        )
    write_json(folder / HEAD_NAMES, heads.describe())


def read_heads(folder: Path) -> tuple[Head, ...]:
    """The heads a folder describes; none where it holds no such file."""
    file = folder / HEAD_NAMES
    return heads_from(json.loads(file.read_text())) if file.exists() else ()


def load_heads(heads: Heads, folder: Path) -> None:
    """Take over the weights of heads."""
    if heads.heads and (folder / HEADS).exists():
        heads.load_state_dict(read_tensors(folder / HEADS))
