"""Tools: typed functions an agent may call, checked before they run."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ..tool_sandbox.limits import Job, Result
from . import problems, schemas
from .faults import Fault, Luck
from .messages import JSON, Problem, ToolCall, ToolResult
from .work import Checked, GradeCall, SessionCall, ToolError, answered, refused

if TYPE_CHECKING:
    from pydantic import Field

__all__ = [
    "Checked",
    "Fault",
    "Field",
    "GradeCall",
    "Job",
    "Luck",
    "SessionCall",
    "TaskSchema",
    "Tool",
    "ToolError",
    "Toolbox",
    "methods",
    "tool",
]

new = cast(Any, tuple.__new__)  # half the price of calling the class
Resource = Literal["inline", "sandbox", "network"]


class Validator:
    """Checks named values against type hints; plain JSON types that match need no pydantic."""

    __slots__ = ("_pydantic", "extra", "hints", "required", "shortcut", "strict")

    def __init__(
        self, hints: Mapping[str, Any], required: Collection[str], *, strict: bool, extra: bool
    ) -> None:
        self.hints = dict(hints)
        self.required = tuple(required)
        self.strict = strict
        self.extra = extra
        self.shortcut = schemas.Shortcut(self.hints, self.required)
        self._pydantic: Any = None  # made at first need: most episodes never need it

    def check(self, values: Mapping[str, JSON]) -> tuple[Mapping[str, JSON] | None, bool, Any]:
        """Return the values or None, whether one was converted, and pydantic's errors."""
        if self.shortcut.fits(values):
            return values, False, ()
        if self._pydantic is None:
            self._pydantic = self._build()
        validator, error_type = self._pydantic
        try:
            return validator.validate_json(json.dumps(dict(values)), strict=True), False, ()
        except error_type as error:
            faults = error
        except (TypeError, ValueError, RecursionError):  # values that are no JSON
            faults = None
        if faults is not None and self.strict:
            return None, False, faults.errors(include_url=False)
        try:
            return validator.validate_python(dict(values)), True, ()
        except error_type as error:
            return None, False, error.errors(include_url=False)

    def _build(self) -> tuple[Any, type[ValueError]]:
        from pydantic import TypeAdapter, ValidationError
        from pydantic_core import SchemaValidator, core_schema

        fields = {
            name: core_schema.typed_dict_field(
                TypeAdapter[Any](hint).core_schema, required=name in self.required
            )
            for name, hint in self.hints.items()
        }
        config = core_schema.CoreConfig(coerce_numbers_to_str=True, allow_inf_nan=False)
        extra = "allow" if self.extra else "forbid"
        schema = core_schema.typed_dict_schema(fields, extra_behavior=extra, config=config)
        return SchemaValidator(schema), ValidationError

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(Validator, strict=self.strict, extra=self.extra)
        return make, (self.hints, self.required)


class TaskSchema:
    """The fields an environment reads from its tasks.

    >>> TaskSchema({"question": str, "answer": str}).faults({"question": "2 + 2?", "reply": 4})
    ["field 'answer' is missing (the row has: question, reply)"]
    """

    def __init__(self, fields: Mapping[str, Any], optional: Mapping[str, Any] | None = None):
        hints = {**fields, **(optional or {})}
        self.validator = Validator(hints, tuple(fields), strict=True, extra=True)

    def faults(self, row: Mapping[str, JSON]) -> list[str]:
        """Return what is wrong with a row, in words; an empty list when nothing is."""
        has = ", ".join(list(row)[:20])
        missing = [name for name in self.validator.required if name not in row]
        if missing:
            return [f"field {name!r} is missing (the row has: {has})" for name in missing]
        read = {name: row[name] for name in self.validator.hints if name in row}
        _, _, errors = self.validator.check(read)
        return [problems.bad_arguments("field", [error], [*row]).detail for error in errors]


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """A function with the schema of its arguments, and how it may be run.

    Attributes:
        name: the name the agent calls it by.
        description: what the agent is told.
        parameters: JSON schema of the arguments.
        function: what runs; a generator function when `resource` is "sandbox".
        validator: checks arguments.
        resource: where it runs: in the calling thread, in a sandbox, or over the network.
        read_only: leaves the state as it is.
        idempotent: may be repeated without further effect.
        price: simulated money a call costs.
        timeout: seconds a call may take.
        raises: exceptions, besides ToolError, that are the tool's answer to the agent.
        merge: jobs of several calls -> one job, for stateless sandbox tools.
        split: (that job's result, number of calls) -> one result each.
        method: whether the function is a method of an environment.
    """

    name: str
    description: str
    parameters: Mapping[str, JSON]
    function: Callable[..., Any]
    validator: Validator
    resource: Resource = "inline"
    read_only: bool = False
    idempotent: bool = False
    price: float = 0.0
    timeout: float = 10.0
    raises: tuple[type[Exception], ...] = ()
    merge: Callable[[Sequence[Job]], Job] | None = None
    split: Callable[[Result, int], Sequence[Result]] | None = None
    method: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, unchecked."""
        return self.function(*args, **kwargs)

    def __get__(self, owner: object | None, kind: type | None = None) -> Any:
        return self if owner is None else MethodType(self.function, owner)

    @property
    def schema(self) -> dict[str, JSON]:
        """The tool as an entry of OpenAI's `tools`."""
        told = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**told, "parameters": self.parameters}}

    def check(self, arguments: Mapping[str, JSON]) -> Checked:
        """Check arguments; lax unless the tool is strict: a value that was converted is told."""
        values, converted, errors = self.validator.check(arguments)
        if values is None:
            return Checked(None, problems.bad_arguments(self.name, errors, [*self.validator.hints]))
        note = Problem("coerced", f"{self.name}: a value was converted.") if converted else None
        return Checked(values, note)

    def call(self, arguments: Mapping[str, JSON], owner: object | None = None) -> Any:
        """Call the function with checked arguments: its value, or a generator of sandbox work."""
        return self.function(owner, **arguments) if self.method else self.function(**arguments)

    def run(
        self, arguments: Mapping[str, JSON], owner: object | None = None, call_id: str = ""
    ) -> ToolResult:
        """Check and run an inline tool; what it raises as its answer becomes the result."""
        checked = self.check(arguments)
        if checked.arguments is None:
            return refused(call_id, cast(Problem, checked.problem))
        try:
            return self.answer(call_id, self.call(checked.arguments, owner))
        except Exception as error:
            if (result := self.failure(call_id, error)) is None:
                raise
            return result

    def answer(self, call_id: str, value: Any) -> ToolResult:
        """Return the result that holds `value`: text as it is, other values as JSON."""
        return answered(call_id, value, self.price)

    def failure(self, call_id: str, error: Exception) -> ToolResult | None:
        """Return the result of an exception that is the tool's answer; None for any other."""
        if isinstance(error, ToolError):
            return refused(call_id, error.problem, self.price)
        if not isinstance(error, self.raises):
            return None
        detail = f"{self.name}: {type(error).__name__}: {error}".rstrip(": ")
        return refused(call_id, Problem("failed", detail), self.price)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    resource: Resource = "inline",
    read_only: bool = False,
    idempotent: bool = False,
    price: float = 0.0,
    timeout: float = 10.0,
    strict: bool = False,
    raises: tuple[type[Exception], ...] = (),
    merge: Callable[[Sequence[Job]], Job] | None = None,
    split: Callable[[Result, int], Sequence[Result]] | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a tool of a function, or of a method of an environment.

    Type hints give the types, defaults what may be left out, the Google-style docstring the
    descriptions, `Annotated[int, Field(ge=1)]` the bounds.

    Args:
        function: The function; without it, a decorator with `options` is returned.
        **options: Fields of `Tool`; `strict=True` refuses values that must be converted first.

    Raises:
        SchemaError: Where an argument cannot be described, or a sandbox tool is no generator.

    >>> @tool
    ... def add(a: int, b: int = 0) -> int:
    ...     '''Add two numbers.'''
    ...     return a + b
    >>> add.run({"a": 2, "b": 3}).content, add.run({"a": "x"}).content
    ('5', 'add: a must be an integer (got "x").')
    """
    if function is None:
        return partial(_make, **options)
    return _make(function, **options)


def _make(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    **options: Any,
) -> Tool:
    read = schemas.signature_of(function)
    called = name or read.name
    if options.get("resource") == "sandbox" and not inspect.isgeneratorfunction(function):
        raise schemas.SchemaError(
            f"{called} has resource 'sandbox' and yields nothing; write it as a generator: "
            "`result = yield Job(code)`"
        )
    if (options.get("merge") is None) != (options.get("split") is None):
        raise schemas.SchemaError(f"{called} has one of merge and split; give both or none")
    return Tool(
        called,
        read.description if description is None else description,
        read.parameters,
        function,
        Validator(read.hints, read.required, strict=strict, extra=False),
        method=read.method,
        **options,
    )


class Toolbox(Mapping[str, Tool]):
    """The tools an agent has, by name.

    >>> def double(n: int) -> int:
    ...     '''Double a number.'''
    ...     return 2 * n
    >>> box = Toolbox(double)
    >>> box.validate(ToolCall("1", "duble", {}, (0, 0))).text
    "There is no tool 'duble'. Did you mean 'double'? Tools: double."
    """

    __slots__ = ("_schemas", "_tools", "faults")

    def __init__(
        self, *tools: Tool | Callable[..., Any], faults: Mapping[str, Fault] | None = None
    ) -> None:
        """Collect tools; plain functions become tools.

        Raises:
            ValueError: When two have one name.
        """
        made = [t if isinstance(t, Tool) else tool(t) for t in tools]
        self._tools = {t.name: t for t in made}
        self._schemas: list[dict[str, JSON]] | None = None
        self.faults: Mapping[str, Fault] = dict(faults or {})
        if len(self._tools) < len(made):
            twice = sorted(name for name, n in Counter(t.name for t in made).items() if n > 1)
            raise ValueError(f"two tools are called {', '.join(twice)}; rename one: @tool(name=…)")

    @classmethod
    def from_openai(
        cls, entries: Sequence[Mapping[str, JSON]], call: Callable[[str, Mapping[str, JSON]], Any]
    ) -> Toolbox:
        """Make tools from OpenAI's `tools`; `call(name, arguments)` runs them."""
        return cls(*(_foreign(entry.get("function", entry), call) for entry in entries))

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def __or__(self, other: Toolbox) -> Toolbox:
        return Toolbox(*self.values(), *other.values(), faults={**self.faults, **other.faults})

    def __repr__(self) -> str:
        return f"Toolbox({', '.join(self)})"

    def schemas(self) -> list[dict[str, JSON]]:
        """Return the tools in OpenAI's form."""
        if self._schemas is None:
            self._schemas = [t.schema for t in self._tools.values()]
        return self._schemas

    def check(self, call: ToolCall) -> Checked:
        """Check one call: its own problem first, then the tool's name, then the arguments."""
        if call.problem is not None:
            return Checked(None, call.problem)
        if (found := self._tools.get(call.name)) is None:
            return Checked(None, problems.unknown_tool(call.name, list(self)))
        if found.validator.shortcut.fits(call.arguments):  # the hot path
            return new(Checked, (call.arguments, None))
        return found.check(call.arguments)

    def validate(self, call: ToolCall) -> Problem | Mapping[str, JSON]:
        """Return the arguments to call the tool with, or the problem why it cannot be called."""
        arguments, problem = self.check(call)
        return cast(Problem, problem) if arguments is None else arguments

    def restrict(self, names: Collection[str]) -> Toolbox:
        """Return a toolbox with these tools only, in the order they stand here."""
        if strange := [name for name in names if name not in self]:
            raise KeyError(problems.unknown_tool(strange[0], list(self)).text)
        faults = {name: fault for name, fault in self.faults.items() if name in names}
        return Toolbox(*(t for t in self.values() if t.name in names), faults=faults)

    def rename(self, names: Mapping[str, str]) -> Toolbox:
        """Return a toolbox where tool `old` is called `names[old]`."""
        made = [dataclasses.replace(t, name=names.get(t.name, t.name)) for t in self.values()]
        faults = {names.get(name, name): fault for name, fault in self.faults.items()}
        return Toolbox(*made, faults=faults)

    def with_fault(self, fault: Fault, *names: str) -> Toolbox:
        """Return a toolbox whose tools (all, or those named) misbehave in this way."""
        faults = {**self.faults, **dict.fromkeys(names or self, fault)}
        return Toolbox(*self.values(), faults=faults)


def _foreign(entry: Mapping[str, JSON], call: Callable[[str, Mapping[str, JSON]], Any]) -> Tool:
    name: str = entry["name"]
    parameters: Mapping[str, JSON] = entry.get("parameters") or {"type": "object"}
    fields: Mapping[str, JSON] = parameters.get("properties") or {}
    hints = {key: schemas.hint_of(schema) for key, schema in fields.items()}
    validator = Validator(hints, parameters.get("required") or (), strict=False, extra=False)

    def run(**arguments: JSON) -> Any:
        return call(name, arguments)

    return Tool(name, entry.get("description", ""), parameters, run, validator, resource="network")


def methods(cls: type) -> Toolbox:
    """Return the tools that a class has as methods, those of its bases first."""
    found: dict[str, Tool] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Tool):
                found[name] = value
            else:
                found.pop(name, None)  # a subclass that sets it to None takes the tool away
    return Toolbox(*found.values())


def __getattr__(name: str) -> Any:
    if name == "Field":  # pydantic is imported when a bound is first written
        from pydantic import Field

        return Field
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
