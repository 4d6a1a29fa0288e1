"""Any Hugging Face causal language model as a policy."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import storage
from .arena import Reader
from .attention import Segments
from .chat import OnRewrite
from .decoder import Attends, Decoder, Places, Shape
from .errors import AgentError, CheckpointError
from .heads import Head, Heads
from .hub import ChatTemplate, HubTokenizer
from .sampling import Sampler
from .templates import PlainTemplate, Template

Engine = Literal["auto", "own", "foreign"]

OWN = ("llama", "qwen2", "qwen3", "mistral")  # decoders of the shape of `Decoder`
TOLERANCE = 1e-3  # between our engine's logits and the model's own, relative to their spread


class LanguageModel:
    """The door to `transformers`."""

    @staticmethod
    def load(
        path: str | Path,
        *,
        dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto",
        heads: Sequence[Head] = (),
        template: Template | None = None,
        on_rewrite: OnRewrite = "rows",
        checkpointing: bool = False,
        engine: Engine = "auto",
        context: int | None = None,
        slots: int | None = None,
        exact: bool = False,
        compiled: bool = False,
    ) -> Sampler:
        """Load a causal language model.

        Args:
            path: a folder in `save_pretrained` form, or the name of a model on the hub.
            dtype: of the forward. "bfloat16" computes in it over float32 weights; "auto" is
                float32, which a CPU computes faster at small sizes.
            heads: value heads; those that the folder holds keep their weights.
            template: for chats; None: the tokenizer's own, else a plain one.
            on_rewrite: what to do where the template rewrites earlier turns.
            checkpointing: recompute activations in the backward pass.
            engine: "own" runs Llama- and Qwen-shaped decoders packed, "foreign" the model's own
                forward; "auto" chooses.
            context: tokens a row may hold; None: the model's, at most 2,048.
            slots: rows that draw at once.
            exact: fixed shapes, bit-equal rows.
            compiled: compile the layers for sampling, where our own engine runs the model.

        Raises:
            CheckpointError: there is no such model.
            AgentError: the asked-for engine cannot run it.
        """
        inner, tokenizer = _opened(path, dtype)
        size = inner.get_input_embeddings().weight.shape[0]
        wrapped = HubTokenizer(tokenizer, size, f"hf:{Path(path).name}")
        most = int(getattr(inner.config, "max_position_embeddings", 2_048)) - 1
        most = min(most, 2_048 if context is None else context, _window(inner.config))
        model = _engine(inner, wrapped, tuple(heads), most, checkpointing, engine)
        known = storage.read_heads(Path(path)) if Path(path).is_dir() else ()
        if known and {head.name for head in known} == {head.name for head in heads}:
            storage.load_heads(model.heads, Path(path))
        return Sampler(
            model,
            slots=slots,
            exact=exact,
            compiled=compiled,
            dtype=torch.bfloat16 if dtype == "bfloat16" else None,
            template=_template(wrapped) if template is None else template,
            on_rewrite=on_rewrite,
        )


def _template(tokenizer: HubTokenizer) -> Template:
    if tokenizer.inner.chat_template:
        return ChatTemplate(tokenizer)
    warnings.warn(
        f"{tokenizer.name} has no chat template; messages are marked plainly, as <|role|> lines",
        stacklevel=3,
    )
    return PlainTemplate(tokenizer)


@contextlib.contextmanager
def quiet() -> Any:
    """Without the progress bars and advice of the library."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _opened(path: str | Path, dtype: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    looks_local = str(path).startswith((".", "/", "~")) or isinstance(path, Path)
    folder = Path(path).expanduser()
    if looks_local and not (folder / "config.json").exists():
        raise CheckpointError(
            f"{path} is no model: there is no {folder / 'config.json'}; give a folder in "
            "save_pretrained form, or the name of a model on the hub"
        )
    place = folder if folder.exists() else path
    kind = torch.float64 if dtype == "float64" else torch.float32
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                place, dtype=kind, attn_implementation="sdpa"
            )
            tokenizer = cast(Any, AutoTokenizer).from_pretrained(place)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be loaded as a causal language model ({_first_line(error)}); give a "
            "folder in save_pretrained form, or the name of a model on the hub"
        ) from error
    return cast(Any, model).eval(), tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _window(config: Any) -> int:
    """Sliding-window models are used up to the window, where attention is still full."""
    window = getattr(config, "sliding_window", None)
    on = getattr(config, "use_sliding_window", True)
    return int(window) if window and on else 1 << 30


def _engine(
    inner: Any,
    tokenizer: HubTokenizer,
    heads: tuple[Head, ...],
    context: int,
    checkpointing: bool,
    engine: Engine,
) -> TakenOver | Foreign:
    if engine != "foreign" and inner.config.model_type in OWN:
        try:
            own = TakenOver(inner, tokenizer, heads, context, checkpointing)
            gap = _gap(own, inner)
        except (KeyError, RuntimeError):  # a variant with other tensors
            gap, own = float("inf"), None
        if own is not None and gap <= TOLERANCE:
            return own
        if engine == "own":
            raise AgentError(
                f"our engine computes other logits than {type(inner).__name__} (gap {gap:.2g}); "
                'give engine="foreign"'
            )
    elif engine == "own":
        raise AgentError(
            f"our engine knows {', '.join(OWN)}, not {inner.config.model_type!r}; "
            'give engine="foreign"'
        )
    foreign = Foreign(inner, tokenizer, heads, context, checkpointing)
    gap = _gap(foreign, inner)
    if gap > TOLERANCE:
        raise AgentError(
            f"{type(inner).__name__} makes its logits in a way we do not know (gap {gap:.2g}); "
            "take another architecture"
        )
    return foreign


@torch.no_grad()
def _gap(model: TakenOver | Foreign, inner: Any) -> float:
    """Largest difference to the model's own logits on a short row, relative to their spread."""
    ids = torch.arange(12) % model.tokenizer.size
    wanted = inner(input_ids=ids[None]).logits[0]
    got = model.logits(model.hidden(ids, Segments([0, len(ids)])))
    return float((got - wanted).abs().max() / wanted.std().clamp_min(1e-6))


class TakenOver(Decoder):
    """A Llama- or Qwen-shaped model on our own packed engine, its weights taken over."""

    engine = "own"

    def __init__(
        self,
        inner: Any,
        tokenizer: HubTokenizer,
        heads: Sequence[Head],
        context: int,
        checkpointing: bool,
    ) -> None:
        config, state = inner.config, cast(dict[str, Tensor], inner.state_dict())
        rotary = inner.model.rotary_emb
        width, count = config.hidden_size, config.num_attention_heads
        at = "model.layers.0."
        shape = Shape(
            vocab=state["model.embed_tokens.weight"].shape[0],
            width=width,
            layers=config.num_hidden_layers,
            heads=count,
            kv_heads=config.num_key_value_heads or count,
            head_dim=getattr(config, "head_dim", None) or width // count,
            ff=config.intermediate_size,
            context=context,
            eps=config.rms_norm_eps,
            tied=bool(config.tie_word_embeddings),
            bias=f"{at}self_attn.q_proj.bias" in state,
            out_bias=f"{at}self_attn.o_proj.bias" in state,
            ff_bias=f"{at}mlp.up_proj.bias" in state,
            qk_norm=f"{at}self_attn.q_norm.weight" in state,
        )
        scale = float(getattr(rotary, "attention_scaling", 1.0))
        frequencies = rotary.inv_freq.detach().float()
        super().__init__(
            shape, heads, inv_freq=frequencies, scale=scale, checkpointing=checkpointing
        )
        self.to(state["model.embed_tokens.weight"].dtype)
        self.tokenizer = tokenizer
        self._config, self._generation = config, inner.generation_config
        self.take(state)

    def save(self, folder: Path) -> None:
        """Write what `AutoModelForCausalLM` and `LanguageModel.load` read."""
        folder.mkdir(parents=True, exist_ok=True)
        _save_beside(folder, self._config, self._generation, self.tokenizer, self.heads)
        storage.save_tensors(self.export(), folder)


class Foreign(nn.Module):
    """A model that runs its own forward, with keys and values in our arena."""

    engine = "foreign"

    def __init__(
        self,
        inner: Any,
        tokenizer: HubTokenizer,
        heads: Sequence[Head],
        context: int,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.inner, self.tokenizer, self.context = inner, tokenizer, context
        self.trunk = inner.get_decoder()
        self.heads = Heads(heads, inner.get_output_embeddings().weight.shape[1])
        self.heads.to(inner.dtype)
        self.checkpointing = checkpointing
        if checkpointing:
            _recompute(inner)

    def parameters(self, recurse: bool = True) -> Any:
        """The model's and the heads', each once."""
        yield from self.inner.parameters(recurse)
        yield from self.heads.parameters(recurse)

    def hidden(
        self,
        tokens: Tensor,
        segments: Places,
        cache: Attends | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Final normed states of packed tokens, [N, D] or those `at` some positions."""
        if isinstance(cache, Reader):
            states = self._cached(tokens, cache)
        else:
            assert isinstance(segments, Segments)
            states = self._padded(tokens, segments)
        return states if at is None else states[at]

    def _padded(self, tokens: Tensor, segments: Segments) -> Tensor:
        lengths = segments.lengths
        # the library recomputes activations in training mode only; dropout is off in both
        self.inner.train(self.checkpointing and torch.is_grad_enabled())
        valid = torch.arange(int(lengths.max())) < lengths[:, None]  # [R, L]
        block = torch.full(valid.shape, self.tokenizer.pad, dtype=torch.int64)
        block[valid] = tokens
        out = self.trunk(
            input_ids=block, attention_mask=valid.to(torch.int64), use_cache=False
        ).last_hidden_state
        return out[valid]

    def _cached(self, tokens: Tensor, reader: Reader) -> Tensor:
        grid, shape = reader.grid, (reader.count, reader.width)
        if self.inner.training:
            self.inner.eval()
        pick = torch.arange(len(tokens)) if grid is None else grid.token
        dtype = self.inner.dtype
        out = self.trunk(
            input_ids=tokens[pick].view(shape),
            position_ids=reader.positions[pick].view(shape),
            attention_mask=reader.mask(dtype),
            past_key_values=_Cache(reader),
            use_cache=True,
        ).last_hidden_state.reshape(reader.count * reader.width, -1)
        return out if grid is None else out[grid.place]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of final states [P, D] -> [P, V], with the caps and scales that we know."""
        config = self.inner.config
        head = self.inner.get_output_embeddings()
        out = functional.linear(hidden, head.weight, head.bias)
        out = out if out.dtype == torch.float64 else out.float()
        out = out * float(getattr(config, "logit_scale", 1.0) or 1.0)
        out = out / float(getattr(config, "logits_scaling", 1.0) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return out if not cap else torch.tanh(out / cap) * cap

    def save(self, folder: Path) -> None:
        """Write what `AutoModelForCausalLM` and `LanguageModel.load` read."""
        self.inner.save_pretrained(folder)
        config, generation = self.inner.config, self.inner.generation_config
        _save_beside(folder, config, generation, self.tokenizer, self.heads)


def _recompute(inner: Any) -> None:
    """Switch activation checkpointing on, and every dropout off for good."""
    for module in inner.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, rate in list(vars(module).items()):
            if "dropout" in name and isinstance(rate, float):
                setattr(module, name, 0.0)
    switch = getattr(inner, "activation_checkpointing_enable", None)
    if switch is None:  # before 5.20
        switch = inner.gradient_checkpointing_enable
    switch({"use_reentrant": False})


class _Cache:
    """What a model's attention asks of a cache, answered by the arena."""

    is_compileable = False

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """Keep keys and values [rows, kv_heads, width, d]; return those of the whole rows."""
        reader = self._reader
        flat = [x.transpose(1, 2).flatten(0, 1) for x in (keys, values)]
        if reader.grid is not None:
            flat = [x[reader.grid.place] for x in flat]
        kept = reader.write(layer, flat[0], flat[1])
        return kept[0].to(keys.dtype), kept[1].to(keys.dtype)

    def get_seq_length(self, layer: int = 0) -> int:
        """Positions are given, so nobody needs it; tokens of the longest row."""
        return int(self._reader.positions.max()) + 1 - self._reader.width


def _save_beside(
    folder: Path, config: Any, generation: Any, tokenizer: HubTokenizer, heads: Heads
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    if generation is not None:
        # as evaluated: our own sampling, at temperature 1
        rows = {k: v for k, v in generation.to_dict().items() if k.endswith("_token_id")}
        text = json.dumps({**rows, "do_sample": True, "temperature": 1.0}, indent=2)
        (folder / "generation_config.json").write_text(text + "\n")
    tokenizer.save(folder)
    storage.save_heads(heads, folder)
