"""A Llama-shaped decoder over packed tokens: trunk of the tiny policy and of taken-over models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import checkpoint as checkpoints

from .heads import Head, Heads


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder, in the words of a Llama configuration."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    context: int
    theta: float = 10_000.0
    eps: float = 1e-6
    tied: bool = True
    bias: bool = False  # of q, k, v (Qwen2)
    out_bias: bool = False  # of o (Llama's attention_bias)
    ff_bias: bool = False
    qk_norm: bool = False  # per head, before the rotation (Qwen3)


class Attends(Protocol):
    """Packed rows (`Segments`) or a key-value cache: who computes attention."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q [N, heads, d] over k, v [N, kv_heads, d] -> [N, heads * d]."""
        ...


class Places(Protocol):
    """What a forward must know of its tokens; `Segments` is one."""

    @property
    def positions(self) -> Tensor:
        """Place of each token within its context, [N]."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention within the packed rows."""
        ...


class Weights(NamedTuple):
    """The tensors of one layer, fused: q, k, v one matrix, gate and up another."""

    norm1: Tensor  # [D]
    qkv: Tensor  # [(heads + 2 kv_heads) d, D]
    out: Tensor  # [D, heads d]
    norm2: Tensor
    gate_up: Tensor  # [2 F, D]
    down: Tensor  # [D, F]
    qkv_bias: Tensor | None = None
    out_bias: Tensor | None = None
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    q_norm: Tensor | None = None  # [d]
    k_norm: Tensor | None = None


class Rotate(torch.autograd.Function):
    """Rotary positions: halves (a, b) of each head become (a cos - b sin, b cos + a sin)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate x [N, heads, d] by angles [N, 1, d / 2]."""
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Rotate the gradient back."""
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    if torch.compiler.is_compiling():
        return torch.cat((a * cos - b * (sin * sign), b * cos + a * (sin * sign)), -1)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = out[..., :half], out[..., half:]
    torch.mul(a, cos, out=first)
    first.addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=second)
    second.addcmul_(a, sin, value=sign)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [N, heads, d] by angles [N, 1, d / 2]."""
    if torch.is_grad_enabled():
        return cast(Tensor, Rotate.apply(x, cos, sin))
    return _turned(x, cos, sin, 1.0)


class Gated(torch.autograd.Function):
    """silu(gate) * up of [N, 2 F] -> [N, F], with one buffer for both gradients."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        """Gate the second half by the first."""
        gate, up = both.chunk(2, -1)
        soft = functional.silu(gate)
        ctx.save_for_backward(both, soft)
        return soft * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor]:
        """Write both halves of the gradient in place."""
        both, soft = ctx.saved_tensors
        gate, up = both.chunk(2, -1)
        out = torch.empty_like(both)
        left, right = out.chunk(2, -1)
        torch.mul(grads[0], soft, out=right)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=left)
        return (out,)


def gated(both: Tensor) -> Tensor:
    """silu(gate) * up of [N, 2 F] -> [N, F]."""
    if torch.is_grad_enabled():
        return cast(Tensor, Gated.apply(both))
    gate, up = both.chunk(2, -1)
    return functional.silu(gate).mul_(up)


class Scaled(torch.autograd.Function):
    """RMSNorm: x / sqrt(mean x^2 + eps) * w; half the passes of the composed one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        """Norm the last axis of x by w."""
        rate = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        unit = x * rate
        ctx.save_for_backward(unit, rate, w)
        return unit * w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Dx = rate (g w - unit mean(g w unit)), dw = sum g unit."""
        unit, rate, w = ctx.saved_tensors
        both = grads[0] * unit
        mean = (both @ w).unsqueeze(-1).div_(-unit.shape[-1])
        dx = (grads[0] * w).addcmul_(unit, mean).mul_(rate)
        return dx, both.flatten(0, -2).sum(0), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of the last axis, computed in float32 at least."""
    kind = torch.promote_types(x.dtype, torch.float32)
    if not torch.is_grad_enabled():
        return functional.rms_norm(x.to(kind), weight.shape, weight.to(kind), eps).to(x.dtype)
    return cast(Tensor, Scaled.apply(x.to(kind), weight.to(kind), eps)).to(x.dtype)


def before(
    x: Tensor, w: Weights, cos: Tensor, sin: Tensor, shape: Shape
) -> tuple[Tensor, Tensor, Tensor]:
    """What precedes attention: q [N, heads, d] and k [N, kv_heads, d], rotated, and v."""
    h = rms_norm(x, w.norm1, shape.eps).to(w.qkv.dtype)
    qkv = functional.linear(h, w.qkv, w.qkv_bias)
    qkv = qkv.view(len(x), shape.heads + 2 * shape.kv_heads, shape.head_dim)
    both, v = qkv[:, : shape.heads + shape.kv_heads], qkv[:, shape.heads + shape.kv_heads :]
    if w.q_norm is not None and w.k_norm is not None:
        q = rms_norm(both[:, : shape.heads], w.q_norm, shape.eps)
        k = rms_norm(both[:, shape.heads :], w.k_norm, shape.eps)
        both = torch.cat((q, k), 1)
    both = rotate(both, cos.to(both.dtype), sin.to(both.dtype))
    return both[:, : shape.heads], both[:, shape.heads :], v


def after(x: Tensor, attended: Tensor, w: Weights, eps: float) -> Tensor:
    """What follows attention: its projection and the feed-forward, both added to x."""
    x = x + functional.linear(attended, w.out, w.out_bias)
    h = rms_norm(x, w.norm2, eps).to(w.qkv.dtype)
    both = functional.linear(h, w.gate_up, w.gate_up_bias)
    return x + functional.linear(gated(both), w.down, w.down_bias)


class Steps(NamedTuple):
    """The two halves of a layer, as they are or compiled."""

    before: Callable[..., tuple[Tensor, Tensor, Tensor]] = before
    after: Callable[..., Tensor] = after


class Decoder(nn.Module):
    """Embedding, layers of attention and gated feed-forward, final norm; heads beside the logits.

    Args:
        shape: sizes.
        heads: value heads on the final hidden state.
        inv_freq: frequencies of the rotary positions, [d / 2]; None: theta^(-2i/d).
        scale: factor of the rotation's cos and sin (some long-context models).
        checkpointing: recompute layers in the backward pass instead of keeping activations.
    """

    def __init__(
        self,
        shape: Shape,
        heads: Sequence[Head] = (),
        *,
        inv_freq: Tensor | None = None,
        scale: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.context, self.checkpointing = shape, shape.context, checkpointing
        d, wide = shape.width, shape.heads * shape.head_dim
        both = wide + 2 * shape.kv_heads * shape.head_dim
        self.embed = nn.Parameter(torch.zeros(shape.vocab, d))
        self.layers = nn.ModuleList()
        self._fused: list[Weights] | None = None
        self.steps = Steps()  # used where a cache attends; a sampler may compile them
        for _ in range(shape.layers):
            sizes: dict[str, tuple[int, ...]] = {
                "norm1": (d,), "qkv": (both, d), "out": (d, wide),
                "norm2": (d,), "gate_up": (2 * shape.ff, d), "down": (d, shape.ff),
            }  # fmt: skip
            sizes |= {"qkv_bias": (both,)} if shape.bias else {}
            sizes |= {"out_bias": (d,)} if shape.out_bias else {}
            sizes |= {"gate_up_bias": (2 * shape.ff,), "down_bias": (d,)} if shape.ff_bias else {}
            dims = {"q_norm": (shape.head_dim,), "k_norm": (shape.head_dim,)}
            sizes |= dims if shape.qk_norm else {}
            block = nn.Module()
            for name, size in sizes.items():
                block.register_parameter(name, nn.Parameter(torch.ones(size)))
            self.layers.append(block)
        self.norm = nn.Parameter(torch.ones(d))
        self.head = None if shape.tied else nn.Parameter(torch.zeros(shape.vocab, d))
        self.heads = Heads(heads, d)
        if inv_freq is None:
            even = torch.arange(0, shape.head_dim, 2, dtype=torch.float32)
            inv_freq = 1.0 / (shape.theta ** (even / shape.head_dim))
        self._inv_freq, self._scale = inv_freq.float(), scale
        self.cos: Tensor
        self.sin: Tensor
        # one further position: a row that is full still gets its end-of-turn id
        self._turns(shape.context + 1)

    def _turns(self, positions: int) -> None:
        """Tabulate the rotation of so many positions, [positions, 1, d / 2]."""
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), self._inv_freq)
        for name, table in (("cos", angles.cos()), ("sin", angles.sin())):
            table = (table[:, None] * self._scale).to(self.embed.device, self.embed.dtype)
            self.register_buffer(name, table, persistent=False)

    def weights(self, dtype: torch.dtype | None = None) -> list[Weights]:
        """The layers' tensors: the parameters themselves, or matrices cast to `dtype`.

        Norms stay as they are: they act on the residual stream, which is float32.
        """
        if dtype is None and self._fused is not None:
            return self._fused
        out: list[Weights] = []
        for block in self.layers:
            found = cast(dict[str, Tensor], dict(block.named_parameters(recurse=False)))
            if dtype is not None:
                norms = ("norm1", "norm2", "q_norm", "k_norm")
                found = {
                    name: x if name in norms else x.detach().to(dtype) for name, x in found.items()
                }
            out.append(Weights(**found))
        if dtype is None:
            self._fused = out
        return out

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._fused = None  # moving or casting a module may make new parameters
        return super()._apply(fn, recurse)

    def hidden(
        self,
        tokens: Tensor,
        segments: Places,
        cache: Attends | None = None,
        at: Tensor | None = None,
        weights: list[Weights] | None = None,
    ) -> Tensor:
        """Final normed states of packed tokens.

        Args:
            tokens: ids, [N].
            segments: their places.
            cache: who attends instead of `segments`: earlier tokens' keys and values.
            at: positions in [0, N) that are wanted; None: all. The last layer works on these.
            weights: cast copies of the layers' tensors; None: the parameters.

        Returns:
            [N, D], or [len(at), D].
        """
        x = functional.embedding(tokens, self.embed)
        positions = segments.positions
        if cache is None and len(positions) and int(positions.max()) >= len(self.cos):
            self._turns(2 * int(positions.max()))  # the last news of an episode may be longer
        turn = self.cos[positions].to(x.dtype), self.sin[positions].to(x.dtype)
        reader = segments if cache is None else cache
        layers = self.weights() if weights is None else weights
        last = len(layers) - 1
        steps = Steps() if cache is None else self.steps
        keep = self.checkpointing and torch.is_grad_enabled()
        for i, layer in enumerate(layers):
            chosen = at if i == last else None
            if keep:
                arguments = x, i, layer, turn, reader, chosen, steps
                again = cast(Any, checkpoints).checkpoint(
                    self._layer, *arguments, use_reentrant=False
                )
                x = cast(Tensor, again)
            else:
                x = self._layer(x, i, layer, turn, reader, chosen, steps)
        return rms_norm(x, self.norm, self.shape.eps)

    def _layer(
        self,
        x: Tensor,
        index: int,
        w: Weights,
        turn: tuple[Tensor, Tensor],
        reader: Attends,
        at: Tensor | None,
        steps: Steps,
    ) -> Tensor:
        q, k, v = steps.before(x, w, *turn, self.shape)
        attended = reader.attend(index, q, k, v)
        if at is not None:
            attended, x = attended[at], x[at]
        return steps.after(x, attended, w, self.shape.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of final states [P, D] -> [P, V], float32 at least."""
        matrix = self.embed if self.head is None else self.head
        out = functional.linear(hidden, matrix)
        return out if out.dtype == torch.float64 else out.float()

    def export(self) -> dict[str, Tensor]:
        """The trunk's tensors under the names of `LlamaForCausalLM`."""
        shape, out = self.shape, {"model.embed_tokens.weight": self.embed.detach()}
        wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        for i, w in enumerate(self.weights()):
            at = f"model.layers.{i}."
            for suffix, fused, both, out_, down in (
                ("weight", w.qkv, w.gate_up, w.out, w.down),
                ("bias", w.qkv_bias, w.gate_up_bias, w.out_bias, w.down_bias),
            ):
                if fused is not None:
                    names = ("q_proj", "k_proj", "v_proj")
                    parts = torch.split(fused.detach(), [wide, narrow, narrow])
                    for name, part in zip(names, parts, strict=True):
                        out[f"{at}self_attn.{name}.{suffix}"] = part
                if out_ is not None:
                    out[f"{at}self_attn.o_proj.{suffix}"] = out_.detach()
                if both is not None and down is not None:
                    gate, up = both.detach().chunk(2)
                    out[f"{at}mlp.gate_proj.{suffix}"] = gate
                    out[f"{at}mlp.up_proj.{suffix}"] = up
                    out[f"{at}mlp.down_proj.{suffix}"] = down.detach()
            out[f"{at}input_layernorm.weight"] = w.norm1.detach()
            out[f"{at}post_attention_layernorm.weight"] = w.norm2.detach()
            if w.q_norm is not None and w.k_norm is not None:
                out[f"{at}self_attn.q_norm.weight"] = w.q_norm.detach()
                out[f"{at}self_attn.k_norm.weight"] = w.k_norm.detach()
        out["model.norm.weight"] = self.norm.detach()
        if self.head is not None:
            out["lm_head.weight"] = self.head.detach()
        return out

    @torch.no_grad()
    def take(self, state: Mapping[str, Tensor]) -> None:
        """Take over tensors named as in `LlamaForCausalLM`.

        Raises:
            KeyError: a tensor is missing.
        """
        for name, mine in self.export().items():
            mine.copy_(state[name])  # `export` gives views of the fused matrices
