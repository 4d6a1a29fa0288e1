"""Ids of environments: registering, finding, describing them."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.envs.registration import parse_env_id

from .exchange import EnvError

if TYPE_CHECKING:
    from .core import Env
    from .rewards import Rewards

__all__ = [
    "Entry",
    "UnknownEnvError",
    "describe",
    "discover",
    "entries",
    "find",
    "make",
    "register",
]

GROUP = "palaestra.envs"  # entry points of plug-ins
VIEWS = ("turn", "tool", "token")
ROOM = __name__.rpartition(".")[0]
BUILTINS = (
    ("Compare-v0", "small:Compare", "Find a hidden number by asking for comparisons."),
    ("Copy-v0", "small:Copy", "Say the letters again: credit by token, length generalisation."),
    ("Sum-v0", "small:Sum", "Add numbers, in the head or with a calculator."),
    ("KeyDoor-v0", "small:KeyDoor", "Take a key, cross rooms, open the door: delayed reward."),
    ("CodeDrill-v0", "drills.code:CodeDrill", "Write one-line functions that are really run."),
    ("Code-v0", "code.env:Code", "Write, run and test Python until hidden tests pass."),
)


class UnknownEnvError(EnvError, LookupError):
    """No environment has this id; the text names the nearest."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered environment.

    Attributes:
        id: namespace/Name-vN.
        entry: "module:Class".
        summary: what it is, in one sentence.
        nondeterministic: real execution may differ between runs.
        plugin: the entry point it came from; empty for built-ins and own modules.
    """

    id: str
    entry: str
    summary: str
    nondeterministic: bool = False
    plugin: str = ""


_entries: dict[str, Entry] = {}
_loading: list[str] = []  # the plug-in whose module is being imported


def register(
    id: str,
    entry: type[Env] | str,
    *,
    summary: str,
    nondeterministic: bool = False,
    searchable: bool = False,
    **kwargs: Any,
) -> None:
    """Registers an environment with Gymnasium, in its three views and as a vector.

    Args:
        id: namespace/Name-vN.
        entry: the class, or "module:Class".
        summary: what it is, in one sentence.
        nondeterministic: real execution (threads, network) may differ between runs.
        searchable: a fork is exact, so that a search may use it.
        **kwargs: defaults of the constructor and the view.

    Raises:
        ValueError: the id has no namespace or no version, or the class cannot be imported by name.
    """
    namespace, _, version = split_id(id)
    if namespace is None or version is None:
        raise ValueError(f"id {id!r} has no namespace or no version; write it as 'my/Name-v0'")
    where = entry if isinstance(entry, str) else name_of(entry)
    if searchable:
        kwargs["searchable"] = True
    plugin = _loading[-1] if _loading else ""
    _entries[id] = Entry(id, where, summary, nondeterministic, plugin)
    # strings, since Async workers and Minari pickle the spec
    gymnasium.register(
        id,
        entry_point=f"{__name__}:build",
        vector_entry_point=f"{__name__}:build_vector",
        nondeterministic=nondeterministic,
        kwargs={"entry": where, "env_id": id, **kwargs},
    )


def split_id(id: str) -> tuple[str | None, str, int | None]:
    """Returns namespace, name and version of an id."""
    try:
        return parse_env_id(id)
    except gymnasium.error.Error as error:
        raise ValueError(f"id {id!r} is not of the form 'my/Name-v0': {error}") from None


def name_of(kind: type) -> str:
    """Returns "module:Class" of a class.

    Raises:
        ValueError: it is defined inside a function, where nobody can import it.
    """
    if "<locals>" in kind.__qualname__:
        raise ValueError(f"{kind.__qualname__} is defined in a function; move it to its module")
    return f"{kind.__module__}:{kind.__qualname__}"


def register_builtins() -> None:
    """Registers the environments that ship here, without importing them."""
    for name, entry, summary in BUILTINS:
        id = f"palaestra/{name}"
        if id in gymnasium.registry:  # a second copy of the package, as pytest makes one
            _entries.setdefault(id, Entry(id, f"{ROOM}.{entry}", summary))
        else:
            register(id, f"{ROOM}.{entry}", summary=summary)


def discover() -> list[str]:
    """Imports the plug-ins of the entry-point group; a broken one is a warning, not an error.

    Returns:
        Names of the plug-ins that were imported.
    """
    found: list[str] = []
    for point in metadata.entry_points(group=GROUP):
        _loading.append(point.name)
        try:
            point.load()
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            warnings.warn(f"plug-in {point.name} ({point.value}) is broken: {what}", stacklevel=2)
        else:
            found.append(point.name)
        finally:
            _loading.pop()
    return found


def entries() -> list[Entry]:
    """Returns every registered environment, by id."""
    return [_entries[id] for id in sorted(_entries)]


def find(id: str) -> Entry:
    """Returns a registered environment.

    Raises:
        UnknownEnvError: with the nearest id.
    """
    if id in _entries:
        return _entries[id]
    short = {known.partition("/")[2]: known for known in _entries}
    near = difflib.get_close_matches(id, [*_entries, *short], 1)
    hint = f"did you mean {short.get(near[0], near[0])!r}?" if near else "see: palaestra envs list"
    raise UnknownEnvError(f"there is no environment {id!r}; {hint}")


def load(entry: str) -> type[Env]:
    """Imports the class of an entry."""
    module, _, name = entry.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def make(id: str, **kwargs: Any) -> Env:
    """Makes the environment itself, without Gymnasium's wrappers: the native road.

    Args:
        id: a registered id.
        **kwargs: of the constructor; they win over the registered ones.

    Raises:
        UnknownEnvError: with the nearest id.
        ValueError: an unknown argument, with the nearest name.
    """
    find(id)
    given = {**gymnasium.spec(id).kwargs, **kwargs}
    given.pop("view", None)
    env = build(**given)
    env.spec = gymnasium.spec(id)
    return env


def build(
    *, entry: str, env_id: str, view: str = "turn", searchable: bool | None = None, **kwargs: Any
) -> Any:
    """Makes one view of an environment; the entry point of every registered id."""
    from . import views

    if view not in VIEWS:
        raise ValueError(f"view is {view!r}; give one of {', '.join(VIEWS)}")
    kind = load(entry)
    options = {name: kwargs.pop(name) for name in views.OPTIONS[view] if name in kwargs}
    check_arguments(kind, kwargs, (*views.OPTIONS[view], "view"), env_id)
    env = kind(**kwargs)
    env.env_id = env_id
    if searchable is not None:
        env.searchable = searchable
    return views.view(env, view, **options)


def build_vector(*, num_envs: int, **kwargs: Any) -> Any:
    """Makes a vector of one view; the vector entry point of every registered id."""
    from . import vector

    return vector.build(num_envs, **kwargs)


def check_arguments(
    kind: type, given: Mapping[str, Any], options: tuple[str, ...], env_id: str
) -> None:
    """Refuses arguments that no constructor takes.

    Raises:
        ValueError: with the nearest name.
    """
    known = arguments_of(kind)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *options], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise ValueError(f"{env_id} has no argument {name!r}; {hint}")


def arguments_of(kind: type) -> list[str]:
    """Returns the names of all keyword arguments of a class and the bases it passes them to."""
    known: list[str] = []
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        known += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in known]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return known


def describe(id: str) -> dict[str, Any]:
    """Returns what an environment offers, as plain data: the page of `palaestra envs describe`."""
    entry = find(id)
    env = make(id)
    spaces: dict[str, dict[str, str]] = {}
    for name in VIEWS:
        view = gymnasium.make(id, view=name, disable_env_checker=True).unwrapped
        spaces[name] = {
            "action": str(view.action_space),
            "observation": str(view.observation_space),
        }
    low, high = env.reward_range_of_episode
    return {
        "id": id,
        "summary": entry.summary,
        "doc": inspect.getdoc(type(env)) or "",
        "entry": entry.entry,
        "plugin": entry.plugin,
        "nondeterministic": entry.nondeterministic,
        "searchable": env.searchable,
        "reads_reasoning": env.reads_reasoning,
        "views": spaces,
        "tools": env.tools.schemas(),
        "terms": terms_of(env.rewards),
        "costs": {name: asdict(cost) for name, cost in env.rewards.costs.items()},
        "reward_range": [low, high],
        "domain": {name: repr(how) for name, how in env.domain.items()},
        "limits": asdict(env.limits),
        "tasks": repr(env.tasks),
        "outside_trainers": 'view="tool", actions="menu", observe="features"'
        if env.menu()
        else 'view="token"',
    }


def terms_of(rewards: Rewards) -> dict[str, dict[str, Any]]:
    """Returns kind, weight, bounds and cap of each term."""
    found: dict[str, dict[str, Any]] = {}
    for name, term in rewards.terms.items():
        row: dict[str, Any] = {"kind": type(term).__name__, "weight": term.weight}
        for part in ("bounds", "cap", "gamma", "version"):
            if hasattr(term, part):
                row[part] = getattr(term, part)
        found[name] = row
    return found
