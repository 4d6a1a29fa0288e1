"""Every setting of a run: its type, default, bounds and help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from .fields import HIDDEN, OPEN, Bounds

COUNT = Bounds(low=1)
SIZE = Bounds(low=0)
SEED = Bounds(low=0, below=2**63)
POSITIVE = Bounds(above=0.0)
SHARE = Bounds(low=0.0, high=1.0)

Shield = Literal["auto", "grammar", "tokens", "none"]
Algorithm = Literal["ppo", "reinforce", "rloo", "grpo"]
Estimator = Literal["boundary", "segment", "token", "two_pass", "n_step", "monte_carlo", "group"]
Unit = Literal["call", "turn", "episode"]
Aggregate = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "const_norm"]
OnTruncation = Literal["bootstrap", "terminate", "mask"]
KLMode = Literal["none", "reward", "loss"]
KLEstimator = Literal["k1", "k2", "k3"]
Null = Literal["none", "lr0", "shuffle", "random_reward"]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How long, how often, where."""

    iterations: Annotated[int, "rounds of gather and learn", COUNT] = 300
    eval_every: Annotated[int, "iterations between two evaluations; 0: at the end only", SIZE] = 10
    eval_episodes: Annotated[int, "tasks of one evaluation", COUNT] = 128
    save_every: Annotated[int, "iterations between two checkpoints", COUNT] = 10
    checkpoints: Annotated[int, "how many of the last checkpoints stay", Bounds(low=2)] = 2
    keep: Annotated[Literal["best", "last"], "what stays beside the last ones"] = "best"
    stop_when: Annotated[str, 'end early, as "eval/success_greedy >= 0.98 twice"; empty: never'] = (
        ""
    )
    device: Annotated[str, "where it runs: auto or cpu, so far the same"] = "auto"
    dtype: Annotated[Literal["float32", "bfloat16", "float64"], "precision of the forward"] = (
        "float32"
    )
    threads: Annotated[int, "torch threads; 2 are slower on the small policies", COUNT] = 1
    null: Annotated[Null, "a null control, which must not learn", HIDDEN] = "none"


@dataclass(frozen=True, slots=True)
class EnvSettings:
    """Which environment, and what its constructor is given."""

    id: Annotated[str, "the environment's id"] = "palaestra/CodeDrill-v0"
    options: Annotated[Mapping[str, Any], "arguments of its constructor", OPEN] = field(
        default_factory=dict[str, Any]
    )


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Who acts and learns."""

    preset: Annotated[Literal["nano", "tiny", "small"], "size of the transformer from scratch"] = (
        "tiny"
    )
    model: Annotated[str, "hf:PATH_OR_NAME: a Hugging Face model in the preset's place"] = ""
    context: Annotated[int, "tokens an episode may hold; 0: chosen", SIZE] = 0
    checkpointing: Annotated[bool, "gradient checkpointing of a Hugging Face model"] = False


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How experience is gathered."""

    batch: Annotated[int, "episodes an iteration; 0: chosen", SIZE] = 0
    group_size: Annotated[int, "attempts at each task", COUNT] = 1
    slots: Annotated[int, "episodes that run side by side; 0: all of the batch", SIZE] = 0
    temperature: Annotated[float, "temperature of sampling", POSITIVE] = 1.0
    shield: Annotated[Shield, "which tokens are forbidden; auto: chosen"] = "auto"
    max_action_tokens: Annotated[int, "tokens of one message; 0: chosen", SIZE] = 0


@dataclass(frozen=True, slots=True)
class AlgoSettings:
    """How experience becomes a loss."""

    name: Annotated[Algorithm, "the loss"] = "ppo"
    estimator: Annotated[Estimator, "the advantage"] = "segment"
    unit: Annotated[Unit, "what a segment is"] = "call"
    gamma: Annotated[float, "discount from one unit to the next", SHARE] = 1.0
    lam: Annotated[float, "trace parameter from one unit to the next", SHARE] = 0.95
    n: Annotated[int, "units the estimator n_step looks ahead", COUNT] = 1
    clip: Annotated[float, "PPO: how far below 1 a ratio is followed", POSITIVE] = 0.2
    clip_high: Annotated[float, "PPO: the same above 1; 0: as clip", Bounds(low=0)] = 0.0
    dual_clip: Annotated[float, "PPO: bound of the loss at negative advantage; 0: off"] = 0.0
    epochs: Annotated[int, "passes over a batch", COUNT] = 2
    minibatch: Annotated[int, "episodes an update; 0: chosen", SIZE] = 0
    whiten: Annotated[bool, "advantages to mean 0, deviation 1 over the batch"] = True
    std_floor: Annotated[float, "least deviation that whitening divides by", Bounds(low=0)] = 0.05
    value_coef: Annotated[float, "weight of the value loss", Bounds(low=0)] = 0.5
    aggregate: Annotated[Aggregate, "how token losses become one number"] = "token_mean"
    on_truncation: Annotated[OnTruncation, "what a truncated episode is worth"] = "bootstrap"


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """The optimiser."""

    name: Annotated[Literal["adamw", "sgd"], "the optimiser"] = "adamw"
    lr: Annotated[float, "learning rate", Bounds(low=0)] = 3e-3
    warmup_updates: Annotated[int, "updates over which lr rises from 0", SIZE] = 20
    betas: Annotated[
        tuple[float, float], "decay of the running moments", Bounds(low=0, below=1)
    ] = (0.9, 0.98)
    weight_decay: Annotated[float, "decoupled weight decay", Bounds(low=0)] = 0.0
    grad_clip: Annotated[float, "largest norm of the gradient; 0: no limit", Bounds(low=0)] = 1.0
    microbatch_tokens: Annotated[int, "tokens one forward of the learner holds", COUNT] = 16_384


@dataclass(frozen=True, slots=True)
class EntropySettings:
    """Bonus for entropy over positions with a choice, falling linearly."""

    start: Annotated[float, "coefficient at first", Bounds(low=0)] = 0.08
    end: Annotated[float, "coefficient at last", Bounds(low=0)] = 0.02
    decay_iterations: Annotated[int, "iterations from start to end", COUNT] = 80


@dataclass(frozen=True, slots=True)
class KLSettings:
    """Distance to the policy at the start of the run."""

    mode: Annotated[KLMode, "where it is charged"] = "none"
    coef: Annotated[float, "its weight", Bounds(low=0)] = 0.0
    estimator: Annotated[KLEstimator, "the sampled estimator"] = "k3"
    target: Annotated[float, "nats an episode the weight is steered to; 0: fixed weight", SIZE] = (
        0.0
    )
    horizon: Annotated[int, "episodes over which the weight is steered", COUNT] = 10_000


@dataclass(frozen=True, slots=True)
class Stage:
    """Arguments of the environment up to and with an iteration."""

    until_iteration: Annotated[int, "last iteration of the stage", COUNT]
    options: Annotated[Mapping[str, Any], "arguments of the environment", OPEN] = field(
        default_factory=dict[str, Any]
    )


@dataclass(frozen=True, slots=True)
class CurriculumSettings:
    """Stages by iteration; the last one stays."""

    stage: Annotated[tuple[Stage, ...], "[[curriculum.stage]] until_iteration, KEY"] = ()


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written beside the checkpoints."""

    tensorboard: Annotated[bool, "write TensorBoard events"] = True
    transcripts_every: Annotated[int, "iterations between two transcripts; 0: none", SIZE] = 25


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a run.

    Attributes:
        given: the dotted keys that came from a file, a variable or a flag, not from the preset:
            these win over every choice of ours. Not a setting, and no part of equality.
        preset: the preset under the given keys.
    """

    seed: Annotated[int, "the one seed of the run", SEED] = 0
    env: EnvSettings = field(default_factory=EnvSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    algo: AlgoSettings = field(default_factory=AlgoSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    entropy: EntropySettings = field(default_factory=EntropySettings)
    kl: KLSettings = field(default_factory=KLSettings)
    curriculum: CurriculumSettings = field(default_factory=CurriculumSettings)
    log: LogSettings = field(default_factory=LogSettings)
    given: frozenset[str] = field(default=frozenset(), compare=False)
    preset: str = field(default="", compare=False)
