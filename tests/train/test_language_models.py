"""The Hugging Face road: a local model trains on the default drill, resumes, loads elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from palaestra.testing import tiny_llm
from palaestra.train import build
from palaestra.train.config import Config, load, load_run
from palaestra.train.loop import train
from palaestra.train.metrics import read
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

CLOCK = ("second", "time", "latency", "memory")
Make = Callable[..., Config]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Settings of the default drill with a small random model of a kind."""
    folder = tmp_path_factory.mktemp("models")

    def made(kind: Any, **changes: Any) -> Config:
        if not (folder / kind).exists():
            tiny_llm.build(folder / kind, kind, width=32, context=640)
        values = {
            "policy.model": f"hf:{folder / kind}",
            "train.iterations": "3",
            "train.eval_every": "0",
            "train.eval_episodes": "1",
            "rollout.batch": "4",
            "algo.minibatch": "2",
            "rollout.max_action_tokens": "16",
            "optim.lr": "1e-3",
            "entropy.start": "0.05",
            "log.tensorboard": "false",
        }
        values |= {name.replace("__", "."): str(value) for name, value in changes.items()}
        return load(None, values, preset="drill-code")

    return made


def test_a_model_trains_on_the_default_drill_and_loads_as_any_other(
    make: Make, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = make("llama")
    train(config, tmp_path / "run")
    found = read(tmp_path / "run")
    assert [row["iteration"] for row in found] == [1, 2, 3]
    assert max(row["check/logprob_mismatch"] for row in found) < 1e-3
    assert all(row["optim/grad_norm"] > 0 for row in found)
    assert found[-1]["kl/sequence"] != found[0]["kl/sequence"]
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert type(model).__name__ == "LlamaForCausalLM"
    before = load_file(Path(config.policy.model.removeprefix("hf:")) / "model.safetensors")
    moved = model.state_dict()
    assert any(not torch.equal(tensor, moved[name]) for name, tensor in before.items())
    loader: Any = AutoTokenizer
    tokenizer = loader.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer.chat_template
    env = build.env_maker(config.env.id, config.env.options)()
    policy = build.policy(config, env)
    build.restore(config, policy, tmp_path / "run" / "model")
    env.close()


def test_a_model_resumes_bit_for_bit(make: Make, tmp_path: Path) -> None:
    changes = {"kl__mode": "reward", "kl__coef": 0.05, "kl__target": 1, "train__iterations": 2}
    train(make("qwen3", **changes), tmp_path / "whole")
    train(make("qwen3", **changes | {"train__iterations": 1}), tmp_path / "parts")
    again = load_run(tmp_path / "parts", {"train.iterations": "2"})
    train(again, tmp_path / "parts", resume=True)
    rows = [
        [
            {tag: value for tag, value in row.items() if not any(word in tag for word in CLOCK)}
            for row in read(tmp_path / name)
        ]
        for name in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    one, other = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_gradient_checkpointing_changes_memory_not_the_update(make: Make, tmp_path: Path) -> None:
    for name, flag in (("plain", "false"), ("thrifty", "true")):
        config = make("qwen2", policy__checkpointing=flag, train__iterations=1)
        train(config, tmp_path / name)
    one, other = (read(tmp_path / name)[0] for name in ("plain", "thrifty"))
    assert one["optim/grad_norm"] > 0
    assert one["optim/grad_norm"] == pytest.approx(other["optim/grad_norm"], rel=1e-5)


def test_bfloat16_trains_over_float32_weights(make: Make, tmp_path: Path) -> None:
    train(make("llama", train__dtype="bfloat16", train__iterations=2), tmp_path / "run")
    (first, second) = read(tmp_path / "run")
    assert first["check/logprob_mismatch"] < 0.2
    assert second["optim/grad_norm"] > 0
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
