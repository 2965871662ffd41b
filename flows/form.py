"""The parameters of a flow from the settings of a run: a form with choices and help in Prefect's
page, and a command line, that offer what `deid run` does."""

import inspect
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import Field

from deid.batch.settings import SECRET, BatchSettings, RunSettings, is_secret
from deid.errors import DeidError

KINDS = (RunSettings, BatchSettings)
STORED = "a secret, and Prefect stores what a run is given; name its file instead (seed_file)"


def with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function that takes `**options` a parameter for each setting that has a help text."""
    own = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[_type(kind, field), _field(field)],
        )
        for kind in KINDS
        for field in _asked(kind)
    ]
    signature = inspect.Signature([*own, *options], return_annotation=dict[str, int])
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
    # Where Prefect reads what its form says of each.
    lines = [f"    {p.name}: {_description(p)}" for p in signature.parameters.values()]
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
    return function


def _field(field: Any) -> Any:
    """Its help; of a seed, the bounds within which it is no secret, which Prefect's server holds a
    run to before it stores what that was given."""
    bounds: dict[str, Any] = {"gt": -SECRET, "lt": SECRET} if field.name == "seed" else {}
    return Field(description=field.metadata["help"], **bounds)


def _asked(kind: type) -> list[Any]:
    return [field for field in fields(kind) if "help" in field.metadata]


def _type(kind: type, field: Any) -> Any:
    hint = get_type_hints(kind, localns={"AnonymizeParams": object})[field.name]
    choices = field.metadata["choices"]
    if not choices:
        return hint
    return Literal[choices] | None if field.default is None else Literal[choices]


def settings_from(options: Mapping[str, Any]) -> tuple[RunSettings, BatchSettings]:
    """The settings objects of a flow's parameters; `DeidError` for a secret among them."""
    run, batch = (
        {f.name: _hashable(options[f.name]) for f in _asked(kind) if f.name in options}
        for kind in KINDS
    )
    if is_secret(run.get("seed", 0)):
        raise DeidError(f"seed: {STORED}")
    return RunSettings(**run), BatchSettings(**batch)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def parsed(function: Callable[..., Any], words: Sequence[str] | None = None) -> Namespace:
    """Arguments of a command line for a function with settings."""
    parser = ArgumentParser(description=(function.__doc__ or "").partition("\n")[0])
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is inspect.Parameter.empty:
            parser.add_argument(parameter.name)
            continue
        flags = _flags().get(parameter.name) or (f"--{parameter.name.replace('_', '-')}",)
        parser.add_argument(*flags, dest=parameter.name, **_argument(parameter))
    given = parser.parse_args(words)
    if is_secret(getattr(given, "seed", 0)):
        parser.error(f"argument --seed: {STORED}")
    return given


def _description(parameter: inspect.Parameter) -> str:
    info = get_args(parameter.annotation)
    return str(info[-1].description) if get_origin(parameter.annotation) is Annotated else ""


def _flags() -> dict[str, tuple[str, ...]]:
    return {field.name: field.metadata["options"] for kind in KINDS for field in _asked(kind)}


def _argument(parameter: inspect.Parameter) -> dict[str, Any]:
    hint = parameter.annotation
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    text = _description(parameter).replace("%", "%%")
    if parameter.default is True or parameter.default is False:
        return {"action": BooleanOptionalAction, "default": parameter.default, "help": text}
    if get_origin(hint) is tuple:
        return {"action": "append", "default": [], "help": text}
    hint = next((part for part in get_args(hint) if part is not type(None)), hint)
    kind = hint if hint in (int, float) else str  # choices are checked where they are used
    return {"type": kind, "default": parameter.default, "help": text}
