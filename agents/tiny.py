"""A small Llama-shaped transformer that trains on a CPU in seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError

from ..envs import tokenizers
from . import storage
from .decoder import Decoder, Shape
from .errors import AgentError, CheckpointError
from .heads import Head

if TYPE_CHECKING:
    from ..envs.tokenizers import ByteTokenizer, FragmentTokenizer, Tokenizer

Preset = Literal["nano", "tiny", "small"]
VALUE = (Head("value"),)
TOKENIZER = "palaestra_tokenizer.json"


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of a preset; the vocabulary is the tokenizer's."""

    width: int
    layers: int
    heads: int
    ff: int
    context: int


PRESETS: dict[str, Size] = {
    "nano": Size(width=32, layers=2, heads=4, ff=64, context=128),
    "tiny": Size(width=64, layers=2, heads=4, ff=160, context=160),
    "small": Size(width=128, layers=4, heads=4, ff=320, context=512),
}


class Tiny(Decoder):
    """The policy network of the drills: RMSNorm, rotary positions, SwiGLU, one KV head, tied.

    Equal to `LlamaForCausalLM` on the same weights; `Sampler.save` writes a folder that it loads.

    Args:
        preset: "nano", "tiny" or "small", or own sizes.
        tokenizer: its ids are the vocabulary.
        heads: heads on the trunk.
        context: tokens a row may hold; None: the preset's.
        seed: of the initial weights; None: torch's own generator draws it.
    """

    def __init__(
        self,
        preset: Preset | Size,
        tokenizer: ByteTokenizer | FragmentTokenizer,
        heads: Sequence[Head] = VALUE,
        *,
        context: int | None = None,
        seed: int | None = None,
    ) -> None:
        if isinstance(preset, str) and preset not in PRESETS:
            raise AgentError(f"there is no preset {preset!r}; give one of {', '.join(PRESETS)}")
        size = PRESETS[preset] if isinstance(preset, str) else preset
        shape = Shape(
            vocab=tokenizer.size,
            width=size.width,
            layers=size.layers,
            heads=size.heads,
            kv_heads=1,
            head_dim=size.width // size.heads,
            ff=size.ff,
            context=size.context if context is None else context,
        )
        super().__init__(shape, heads)
        self.tokenizer = tokenizer
        self.reset(seed)

    @torch.no_grad()
    def reset(self, seed: int | None = None) -> None:
        """Draw the weights: N(0, 1/fan_in), what writes to the residual stream divided by
        sqrt(2 layers), embeddings N(0, 1/width), heads zero.
        """  # noqa: D205
        seed = int(torch.randint(1 << 31, ())) if seed is None else seed
        generator = torch.Generator().manual_seed(seed)
        shape = self.shape
        self.embed.normal_(0.0, shape.width**-0.5, generator=generator)
        thin = (2 * shape.layers) ** -0.5
        for w in self.weights():
            for matrix, factor in ((w.qkv, 1.0), (w.out, thin), (w.gate_up, 1.0), (w.down, thin)):
                matrix.normal_(0.0, factor * matrix.shape[1] ** -0.5, generator=generator)
            w.norm1.fill_(1.0)
            w.norm2.fill_(1.0)
        self.norm.fill_(1.0)
        self.heads.reset(generator)

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM` and `Tiny.load` read."""
        folder.mkdir(parents=True, exist_ok=True)
        dtype = str(self.embed.dtype).removeprefix("torch.")
        config = llama_config(self.shape, self.tokenizer, dtype)
        storage.write_json(folder / "config.json", config)
        generation = {k: config[k] for k in ("eos_token_id", "pad_token_id")}
        generation |= {"do_sample": True, "temperature": 1.0}
        storage.write_json(folder / "generation_config.json", generation)
        storage.save_tensors(self.export(), folder)
        storage.save_heads(self.heads, folder)
        (folder / TOKENIZER).write_text(self.tokenizer.to_json())

    @classmethod
    def load(cls, folder: Path) -> Tiny:
        """Read a folder that `save` wrote.

        Raises:
            CheckpointError: a file is missing or broken, or holds other shapes.
        """
        try:
            config = json.loads((folder / "config.json").read_text())
            tokenizer = tokenizers.from_json((folder / TOKENIZER).read_text())
            state = storage.read_tensors(folder / "model.safetensors")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} holds no whole model ({error}); give the model folder of a run"
            ) from error
        size = Size(
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            ff=config["intermediate_size"],
            context=config["max_position_embeddings"],
        )
        model = cls(size, tokenizer, storage.read_heads(folder), seed=0)
        model.to(getattr(torch, config["dtype"]))
        try:
            model.take(state)
            storage.load_heads(model.heads, folder)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder} holds other tensors than its config.json says ({error})"
            ) from error
        return model


def llama_config(shape: Shape, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """The fields of `config.json` for a decoder of this shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "intermediate_size": shape.ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "rope_parameters": {"rope_theta": shape.theta, "rope_type": "default"},
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_of_turn,
        "pad_token_id": tokenizer.pad,
        "dtype": dtype.removeprefix("torch."),
    }
