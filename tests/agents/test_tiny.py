"""The tiny policy is a Llama, and a folder of it is one too."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from palaestra.agents.attention import Segments
from palaestra.agents.errors import AgentError, CapabilityError, CheckpointError
from palaestra.agents.heads import Head, Heads
from palaestra.agents.sampling import Sampler
from palaestra.agents.tiny import Tiny
from palaestra.envs.tokenizers import ByteTokenizer, WordTokenizer

WORDS = WordTokenizer([f"w{i}" for i in range(36)])  # 40 ids


def llama(folder: Path) -> Any:
    """The same weights in the library everybody knows."""
    from palaestra.agents import language_model
    from transformers import AutoModelForCausalLM

    with language_model.quiet():
        return cast(Any, AutoModelForCausalLM).from_pretrained(folder).eval()


@pytest.mark.parametrize("preset", ["nano", "tiny", "small"])
def test_ag_tiny1_a_saved_folder_is_loaded_by_transformers_with_equal_logits(
    tmp_path: Path, preset: Any
) -> None:
    model = Tiny(preset, WORDS, seed=3)
    Sampler(model).save(tmp_path)
    other = llama(tmp_path)
    ids = torch.randint(4, 40, (50,), generator=torch.Generator().manual_seed(0))
    lengths = [20, 13, 17]
    offsets = list(accumulate([0, *lengths]))
    with torch.no_grad():
        ours = model.logits(model.hidden(ids, Segments(offsets)))
        theirs = torch.cat(
            [other(input_ids=part[None]).logits[0] for part in torch.split(ids, lengths)]
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_ag_tiny1_gradients_equal_those_of_transformers(tmp_path: Path) -> None:
    model = Tiny("nano", WORDS, (), seed=3)
    model.save(tmp_path)
    other = llama(tmp_path)
    ids = torch.randint(4, 40, (24,), generator=torch.Generator().manual_seed(0))
    for network, logits in (
        (model, model.logits(model.hidden(ids, Segments([0, 24])))),
        (other, other(input_ids=ids[None]).logits[0]),
    ):
        torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).backward()
        del network
    theirs = {name: p.grad for name, p in other.named_parameters()}
    for name, tensor in Decoded(model).grads().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)


class Decoded:
    """Gradients of fused matrices under the names of the parts."""

    def __init__(self, model: Tiny) -> None:
        self.model = model

    def grads(self) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for parameter in self.model.parameters():
                assert parameter.grad is not None
                parameter.copy_(parameter.grad)
        return {k: v for k, v in self.model.export().items() if k != "lm_head.weight"}


@pytest.mark.parametrize(
    ("preset", "count"), [("nano", 18_000), ("tiny", 85_000), ("small", 660_000)]
)
def test_presets_have_the_sizes_they_name(preset: Any, count: int) -> None:
    model = Tiny(preset, WORDS, ())
    assert abs(sum(p.numel() for p in model.parameters()) / count - 1) < 0.05


def test_the_first_policy_is_near_uniform() -> None:
    model = Tiny("tiny", WORDS, seed=0)
    ids = torch.randint(4, 40, (400,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logprobs = model.logits(model.hidden(ids, Segments([0, 200, 400])))[:, 4:].log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
    assert float(entropy) > 0.85 * float(torch.tensor(36.0).log())


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Tiny("nano", WORDS, seed=5).state_dict()
    torch.manual_seed(2)
    again = Tiny("nano", WORDS, seed=5).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    others: list[torch.Tensor] = []
    for _ in range(2):  # without a seed: torch's own generator
        torch.manual_seed(2)
        others.append(Tiny("nano", WORDS).state_dict()["embed"])
    assert torch.equal(*others)
    assert not torch.equal(first["embed"], others[0])


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), WORDS])
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path, tokenizer: Any) -> None:
    heads = (Head("value"), Head("deep", layers=2), Head("q", kind="quantile", size=3))
    model = Tiny("nano", tokenizer, heads, context=77, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save(tmp_path)
    again = Tiny.load(tmp_path)
    assert (again.heads.heads, again.context, again.tokenizer) == (heads, 77, tokenizer)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert json.loads((tmp_path / "heads.json").read_text())[1]["layers"] == 2


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no whole model"):
        Tiny.load(tmp_path)


def test_a_file_cut_in_half_is_named(tmp_path: Path) -> None:
    Tiny("nano", WORDS).save(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="holds no whole model"):
        Tiny.load(tmp_path)


def test_other_shapes_than_the_configuration_are_named(tmp_path: Path) -> None:
    Tiny("nano", WORDS).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(CheckpointError, match="other tensors"):
        Tiny.load(tmp_path)


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(AgentError, match="give one of nano, tiny, small"):
        Tiny("huge", WORDS)  # type: ignore[arg-type]


def test_a_network_without_save_is_refused(tmp_path: Path) -> None:
    class Bare:
        context, tokenizer, heads = 8, WORDS, Heads((), 4)

    with pytest.raises(CapabilityError, match=r"give it a method save"):
        Sampler(Bare()).save(tmp_path)  # type: ignore[arg-type]


def test_recomputed_activations_give_the_same_gradients() -> None:
    ids = torch.randint(4, 40, (60,), generator=torch.Generator().manual_seed(0))
    grads: list[list[torch.Tensor]] = []
    for checkpointing in (False, True):
        model = Tiny("nano", WORDS, (), seed=0)
        model.checkpointing = checkpointing
        at = torch.tensor([5, 30, 59])
        model.logits(model.hidden(ids, Segments([0, 40, 60]), None, at)).square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
