"""The mathematics: pure functions of tensors, no networks, no I/O. The flat public API."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .credit import fold_rewards as fold_rewards
    from .credit import kl_reward as kl_reward
    from .credit import place as place
    from .credit import potential_shaping as potential_shaping
    from .credit import redistribute as redistribute
    from .divergence import AdaptiveKL as AdaptiveKL
    from .divergence import kl_full as kl_full
    from .divergence import kl_k1 as kl_k1
    from .divergence import kl_k2 as kl_k2
    from .divergence import kl_k3 as kl_k3
    from .divergence import kl_k3plus as kl_k3plus
    from .exploration import entropy as entropy
    from .levels import level_schedule as level_schedule
    from .levels import segment_gae as segment_gae
    from .levels import two_pass_gae as two_pass_gae
    from .losses import PolicyLoss as PolicyLoss
    from .losses import RunningBaseline as RunningBaseline
    from .losses import aggregate as aggregate
    from .losses import group_advantage as group_advantage
    from .losses import group_statistics as group_statistics
    from .losses import normaliser as normaliser
    from .losses import ppo as ppo
    from .losses import reinforce as reinforce
    from .masking import Moments as Moments
    from .masking import combine as combine
    from .masking import masked_mean as masked_mean
    from .masking import masked_var as masked_var
    from .masking import moments as moments
    from .masking import whiten as whiten
    from .returns import discounted_return as discounted_return
    from .returns import gae as gae
    from .returns import lambda_return as lambda_return
    from .returns import length_adaptive_lambda as length_adaptive_lambda
    from .returns import n_step as n_step
    from .returns import next_values as next_values
    from .rows import Advantages as Advantages
    from .scan import linear_scan as linear_scan
    from .segments import Segments as Segments
    from .segments import segment_broadcast as segment_broadcast
    from .segments import segment_reduce as segment_reduce
    from .statistics import Interval as Interval
    from .statistics import bootstrap as bootstrap
    from .statistics import cluster_bootstrap as cluster_bootstrap
    from .statistics import iqm as iqm
    from .statistics import pass_at_k as pass_at_k
    from .statistics import pass_hat_k as pass_hat_k
    from .statistics import wilson as wilson
    from .values import explained_variance as explained_variance
    from .values import huber as huber
    from .values import value_loss as value_loss

_HOME = {
    "credit": "fold_rewards kl_reward place potential_shaping redistribute",
    "divergence": "AdaptiveKL kl_full kl_k1 kl_k2 kl_k3 kl_k3plus",
    "exploration": "entropy",
    "levels": "level_schedule segment_gae two_pass_gae",
    "losses": (
        "PolicyLoss RunningBaseline aggregate group_advantage group_statistics normaliser ppo "
        "reinforce"
    ),
    "masking": "Moments combine masked_mean masked_var moments whiten",
    "returns": "discounted_return gae lambda_return length_adaptive_lambda n_step next_values",
    "rows": "Advantages",
    "scan": "linear_scan",
    "segments": "Segments segment_broadcast segment_reduce",
    "statistics": "Interval bootstrap cluster_bootstrap iqm pass_at_k pass_hat_k wilson",
    "values": "explained_variance huber value_loss",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_MODULE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name, or a module of the room, when it is first asked for."""
    if name in _HOME:
        return import_module(f".{name}", __name__)
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_HOME]
