"""A small random language model as a folder of Hugging Face files: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..agents import storage
from ..agents.decoder import Decoder, Shape

Kind = Literal["llama", "qwen2", "qwen3", "gpt2"]

# fmt: off
WORDS = (
    "the", "and", "for", "with", "return", "def", "lambda", "print", "list", "sum", "max", "min",
    "len", "sorted", "filter", "map", "range", "hello", "question", "answer", "value", "number",
    "user", "assistant", "system", "tool", "true", "false", "none", "x",
)
# fmt: on
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

_TOOLS = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools>\\nCall one as <tool_call>{"name": ..., "arguments": {...}}</tool_call>' }}
{{- '<|im_end|>\\n' }}
{%- elif messages and messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
"""
_CALLS = """\
{%- if message.tool_calls %}{%- for call in message.tool_calls %}
{{- '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
{%- endfor %}{%- endif %}
{{- '<|im_end|>\\n' }}
"""
_RESULT = """\
{%- elif message.role == 'tool' %}
{%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
"""
_PLAIN = """\
{%- elif message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
"""
_ASK = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"

# keeps every turn as it was said
CHATML = (
    _TOOLS
    + "{%- for message in messages %}{%- if message.role == 'assistant' %}\n"
    + "{{- '<|im_start|>assistant\\n' + message.content }}\n"
    + _CALLS
    + _RESULT
    + _PLAIN
    + "{%- endfor %}"
    + _ASK
)
# deletes the reasoning of turns before the last question, as some templates do
FORGETFUL = (
    _TOOLS
    + "{%- set ns = namespace(last=-1) %}{%- for message in messages %}"
    + "{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    + "{%- for message in messages %}{%- if message.role == 'assistant' %}\n"
    + "{{- '<|im_start|>assistant\\n' }}"
    + "{%- if message.reasoning_content and loop.index0 > ns.last %}"
    + "{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}"
    + "{{- message.content }}\n"
    + _CALLS
    + _RESULT
    + _PLAIN
    + "{%- endfor %}"
    + _ASK
)


def build(
    folder: Path,
    kind: Kind = "llama",
    *,
    template: str | None = CHATML,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 512,
    vocab: int | None = None,
    seed: int = 0,
    scale: float = 1.0,
) -> Path:
    """Write a random model with a byte-level tokenizer and a chat template.

    Args:
        folder: where; made if it does not exist.
        kind: the architecture; "gpt2" is one that our own engine does not know.
        template: the chat template; None: a tokenizer without one.
        width: of the hidden states.
        layers: of the decoder.
        heads: query heads.
        kv_heads: key-value heads.
        context: positions.
        vocab: size of the embedding; None: that of the tokenizer.
        seed: of the weights.
        scale: factor on the logits' spread: larger is less uniform.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = write_tokenizer(folder, template)
    size = tokens if vocab is None else vocab
    generator = torch.Generator().manual_seed(seed)
    if kind == "gpt2":
        config, tensors = _gpt2(size, width, layers, heads, context, generator)
    else:
        shape = Shape(
            vocab=size, width=width, layers=layers, heads=heads, kv_heads=kv_heads,
            head_dim=width // heads, ff=2 * width, context=context, tied=kind == "qwen2",
            bias=kind == "qwen2", qk_norm=kind == "qwen3",
        )  # fmt: skip
        config, tensors = _llama_like(kind, shape, generator, scale)
    config |= {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, "dtype": "float32"}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0})
    storage.save_tensors(tensors, folder)
    return folder


@torch.no_grad()
def _llama_like(
    kind: str, shape: Shape, generator: torch.Generator, scale: float
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    model = Decoder(shape)
    for name, tensor in model.named_parameters():
        if "norm" in name:
            tensor.uniform_(0.8, 1.2, generator=generator)
        else:
            last = tensor.shape[-1]
            tensor.normal_(0.0, 0.1 if tensor.ndim == 1 else last**-0.5, generator=generator)
    (model.embed if model.head is None else model.head).mul_(scale)
    classes = {
        "llama": "LlamaForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
    }
    config: dict[str, Any] = {
        "architectures": [classes[kind]],
        "model_type": kind,
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
        "rope_parameters": {"rope_theta": shape.theta, "rope_type": "default"},
        "tie_word_embeddings": shape.tied,
    }
    return config, {name: x.contiguous().clone() for name, x in model.export().items()}


def _gpt2(
    vocab: int, width: int, layers: int, heads: int, context: int, generator: torch.Generator
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    ones, zeros = torch.ones, torch.zeros
    tensors = {
        "transformer.wte.weight": normal(vocab, width),
        "transformer.wpe.weight": normal(context, width),
        "transformer.ln_f.weight": ones(width),
        "transformer.ln_f.bias": zeros(width),
    }
    for i in range(layers):
        at = f"transformer.h.{i}."
        tensors |= {
            f"{at}ln_1.weight": ones(width), f"{at}ln_1.bias": zeros(width),
            f"{at}ln_2.weight": ones(width), f"{at}ln_2.bias": zeros(width),
            f"{at}attn.c_attn.weight": normal(width, 3 * width),
            f"{at}attn.c_attn.bias": zeros(3 * width),
            f"{at}attn.c_proj.weight": normal(width, width),
            f"{at}attn.c_proj.bias": zeros(width),
            f"{at}mlp.c_fc.weight": normal(width, 4 * width),
            f"{at}mlp.c_fc.bias": zeros(4 * width),
            f"{at}mlp.c_proj.weight": normal(4 * width, width),
            f"{at}mlp.c_proj.bias": zeros(width),
        }  # fmt: skip
    config: dict[str, Any] = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": vocab,
        "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": context,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip
    return config, tensors


def write_tokenizer(folder: Path, template: str | None = CHATML) -> int:
    """Write a byte-level tokenizer of 256 bytes, a few merged words and control tokens.

    Returns:
        Its number of ids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = _byte_letters()
    vocab = {token: i for i, token in enumerate([*SPECIALS, *MARKS])}
    for letter in letters:
        vocab[letter] = len(vocab)
    merges: list[list[str]] = []
    for word in [spelt for plain in WORDS for spelt in (plain, "Ġ" + plain)]:
        _merge(word, vocab, merges)
    added = [
        {
            "id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": token in SPECIALS,
        }
        for i, token in enumerate([*SPECIALS, *MARKS])
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": vocab, "merges": merges,
    }  # fmt: skip
    file = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None, "decoder": {**level, "use_regex": True}, "model": model,
    }  # fmt: skip
    _write(folder / "tokenizer.json", file)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    if template is not None:
        settings["chat_template"] = template
    _write(folder / "tokenizer_config.json", settings)
    return len(vocab)


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte, in the order of bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(other)) for b in range(256)]


def _merge(word: str, vocab: dict[str, int], merges: list[list[str]]) -> None:
    for end in range(2, len(word) + 1):
        if word[:end] not in vocab:
            vocab[word[:end]] = len(vocab)
            merges.append([word[: end - 1], word[end - 1]])


def _write(path: Path, content: dict[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
