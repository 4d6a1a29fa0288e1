"""The settings of a run: preset, file, variables and flags, one over the other."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, cast

from . import combinations, fields
from .fields import ConfigError, Leaf
from .settings import Config, Stage
from .toml import dumps

DEFAULT_PRESET = "drill-code"
VARIABLE = "PALAESTRA_"
_PACKAGE = __name__.rpartition(".")[0]

# The lines of a preset that speak of its own environment (learning.md 5).
OF_THE_ENVIRONMENT = frozenset(
    {
        "train.stop_when",
        "rollout.shield",
        "rollout.max_action_tokens",
        "rollout.batch",
        "algo.minibatch",
        "policy.context",
    }
)

__all__ = [
    "DEFAULT_PRESET",
    "Config",
    "ConfigError",
    "Stage",
    "check_options",
    "difference",
    "keys",
    "load",
    "load_run",
    "presets",
    "read",
    "replaced",
    "to_toml",
    "value",
]


class Given(NamedTuple):
    """A value and where it was given."""

    value: Any
    source: str


def keys() -> dict[str, Leaf]:
    """Every setting by its dotted key, hidden ones included."""
    return dict(fields.schema(Config).leaves)


def value(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name)
    return found


def presets() -> list[str]:
    """Names of the presets that ship with the package."""
    folder = resources.files(_PACKAGE) / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir())


def load(
    path: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    *,
    preset: str = DEFAULT_PRESET,
    quick: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The settings of a new run; each layer wins over the one before.

    Args:
        path: a TOML file over the preset; None: the preset alone.
        overrides: words of the command line, dotted key -> value.
        preset: the lowest layer; its lines about its environment fall away where a higher layer
            names another environment.
        quick: the short version of the preset: level 1, 80 iterations, no curriculum.
        environ: variables, of which ``PALAESTRA_SECTION_KEY`` are read.

    Raises:
        ConfigError: unknown key, wrong type, impossible value, or a file that does not parse.
    """
    base = _preset_layer(preset, quick)
    layers = [_table_layer(read(path), str(path))] if path is not None else []
    layers += [_variables(environ or {}), _flags(overrides or {})]
    given: dict[str, Given] = {}
    for layer in layers:
        given.update(layer)
    if "env.id" in given and given["env.id"].value != base["env.id"].value:
        base = {key: item for key, item in base.items() if not _of_the_environment(key)}
    return _assemble({**base, **given}, frozenset(given), preset)


def load_run(
    run_dir: Path,
    overrides: Mapping[str, str] | None = None,
    *,
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The effective settings a run was made with, under a file, variables and flags.

    Raises:
        ConfigError: the folder holds no ``config.toml``, or a higher layer is wrong.
    """
    saved = run_dir / "config.toml"
    if not saved.is_file():
        raise ConfigError(f"{run_dir} holds no config.toml; give the folder of a run.")
    layer = _table_layer(read(saved), str(saved))
    if path is not None:
        layer.update(_table_layer(read(path), str(path)))
    layer.update(_variables(environ or {}))
    layer.update(_flags(overrides or {}))
    return _assemble(layer, frozenset(layer), "")


def read(path: Path) -> dict[str, Any]:
    """A TOML file as nested tables.

    Raises:
        ConfigError: no such file, or its text does not parse (with file and line).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a TOML file.") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = place.group(1) if place else str(text.count("\n") + 1)
        reason = str(error).partition(" (at ")[0]
        raise ConfigError(f"{path}:{line}: {reason}; correct the TOML there.") from None


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with some dotted keys set to other values.

    >>> replaced(Config(), {"train.iterations": 3}).train.iterations
    3

    Raises:
        ConfigError: unknown key, wrong type or impossible value.
    """
    flat = {key: Given(value, "config") for key, value in _flat(config).items()}
    layer = _layer({key: Given(value, "config") for key, value in values.items()})
    return _assemble({**flat, **layer}, config.given, config.preset)


def to_toml(config: Config) -> str:
    """The config as TOML that ``load_run`` reads back to an equal config."""
    known = keys()
    flat = _flat(config)
    shown = {
        key: value
        for key, value in flat.items()
        if not (key in known and known[key].hidden and value == known[key].default)
    }
    return dumps(fields.nest(shown))


def difference(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values; None where one lacks the key."""
    left, right = _flat(a), _flat(b)
    return {
        key: (left.get(key), right.get(key))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    }


def check_options(constructor: Callable[..., Any], options: Mapping[str, Any], source: str) -> None:
    """Refuse an ``[env]`` key that the environment's constructor does not take.

    Args:
        constructor: the class; arguments its ``__init__`` hands on to its bases count.
        options: ``config.env.options`` or those of a stage.
        source: words that say where the options stand.

    Raises:
        ConfigError: an option no constructor in the line names, with the nearest that one does.
    """
    names = _arguments(constructor)
    if names is None:
        return
    for key in options:
        if key not in names:
            known = [f"env.{name}" for name in sorted(names)]
            raise fields.unknown(f"env.{key}", known, source)


def _arguments(constructor: Callable[..., Any]) -> set[str] | None:
    """Names a constructor takes; None where it takes any."""
    bases = inspect.getmro(constructor) if inspect.isclass(constructor) else (constructor,)
    names: set[str] = set()
    for base in bases:
        function = cast(Any, vars(base).get("__init__") if inspect.isclass(base) else base)
        if function is None:
            continue
        parameters = inspect.signature(function).parameters.values()
        names |= {item.name for item in parameters if item.kind in _BY_NAME} - {"self"}
        if not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters):
            return names
    return None


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _of_the_environment(key: str) -> bool:
    return key in OF_THE_ENVIRONMENT or key.startswith(("env.", "curriculum."))


def _preset_layer(name: str, quick: bool) -> dict[str, Given]:
    if name not in presets():
        hint = fields.nearest(name, presets()) or f" There are: {', '.join(presets())}."
        raise ConfigError(f'--preset: got "{name}", which is no preset.{hint}')
    file = resources.files(_PACKAGE) / "presets" / f"{name}.toml"
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    if quick:
        table["train"]["iterations"] = 80
        table["env"]["level"] = 1
        table["curriculum"] = {"stage": []}  # one try throughout (learning.md 5)
    return _table_layer(table, f"preset {name}")


def _table_layer(table: Mapping[str, Any], source: str) -> dict[str, Given]:
    flat = fields.flatten(table)
    return _layer({key: Given(value, source) for key, value in flat.items()})


def _layer(items: Mapping[str, Given]) -> dict[str, Given]:
    """Each value as its setting's type; keys of open tables pass as they are."""
    known = fields.schema(Config)
    layer: dict[str, Given] = {}
    for key, (value, source) in items.items():
        if key in known.leaves:
            layer[key] = Given(fields.checked(known.leaves[key], value, source), source)
        elif _is_open(key):
            layer[key] = Given(value, source)
        else:
            raise fields.unknown(key, _listed(), source)
    return layer


def _is_open(key: str) -> bool:
    return any(key.startswith(prefix) and key != prefix for prefix in fields.schema(Config).open)


def _listed() -> list[str]:
    return [key for key, leaf in keys().items() if not leaf.hidden]


def _flags(overrides: Mapping[str, str]) -> dict[str, Given]:
    return _words({key: Given(text, f"--{key}") for key, text in overrides.items()})


def _variables(environ: Mapping[str, str]) -> dict[str, Given]:
    """``PALAESTRA_OPTIM_LR=1e-3`` is ``optim.lr``; other variables of that prefix are not ours."""
    spelled = {key.replace(".", "_").upper(): key for key in keys()}
    sections = {key.partition(".")[0].upper() + "_" for key in keys() if "." in key}
    found: dict[str, Given] = {}
    for name, text in environ.items():
        word = name.removeprefix(VARIABLE)
        if word == name:
            continue
        if word in spelled:
            found[spelled[word]] = Given(text, name)
        elif word.startswith("ENV_REWARD_"):
            found["env.reward." + word.removeprefix("ENV_REWARD_").lower()] = Given(text, name)
        elif word.startswith("ENV_"):
            found["env." + word.removeprefix("ENV_").lower()] = Given(text, name)
        elif word.startswith(tuple(sections)):
            section, _, key = word.lower().partition("_")
            raise fields.unknown(f"{section}.{key}", _listed(), name)
    return _words(found)


def _words(items: Mapping[str, Given]) -> dict[str, Given]:
    known = fields.schema(Config)
    layer: dict[str, Given] = {}
    for key, (text, source) in items.items():
        if key in known.leaves:
            layer[key] = Given(fields.parsed(known.leaves[key], text, source), source)
        elif _is_open(key):
            value = fields.literal(text)
            nested = fields.flatten({key: value}) if isinstance(value, dict) else {key: value}
            layer.update({name: Given(item, source) for name, item in nested.items()})
        else:
            raise fields.unknown(key, _listed(), source)
    return layer


def _flat(config: Config) -> dict[str, Any]:
    return fields.flatten(fields.table_of(config))


def _assemble(items: Mapping[str, Given], given: frozenset[str], preset: str) -> Config:
    table = fields.nest({key: item.value for key, item in items.items()})
    stages = cast(Sequence[Any], table.get("curriculum", {}).get("stage", ()))
    table.setdefault("curriculum", {})["stage"] = [
        fields.table_of(stage) if isinstance(stage, Stage) else stage for stage in stages
    ]
    config = replace(fields.build(Config, table, "config"), given=given, preset=preset)
    combinations.refuse(config)
    return config
