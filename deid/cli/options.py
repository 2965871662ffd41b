"""Options of a command from the fields of a settings object."""

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from functools import wraps
from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer


def with_options(*kinds: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameters of the dataclasses `kinds` by an option for each field that
    has a help text."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(command).parameters.values()
        objects = {p.name: p.annotation for p in parameters if p.annotation in kinds}
        options = {name: _options(kind) for name, kind in objects.items()}

        @wraps(command)
        def run(**given: Any) -> None:
            for name, kind in objects.items():
                values = {option.name: given.pop(option.name) for option in options[name]}
                given[name] = kind(
                    **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
                )
            command(**given)

        own = [p for p in parameters if p.name not in objects]
        signature = inspect.Signature([*own, *(o for some in options.values() for o in some)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        del run.__wrapped__
        return run

    return decorate


def _options(kind: type) -> list[inspect.Parameter]:
    asked = [field for field in fields(kind) if "help" in field.metadata]
    return [_option(kind, field) for field in asked]


def _option(kind: type, field: Field[Any]) -> inspect.Parameter:
    hint: Any = get_type_hints(kind, localns=_UNASKED)[field.name]
    default: Any = field.default
    if get_origin(hint) is tuple:
        hint, default = GenericAlias(list, get_args(hint)[:1]), list(default)
    flags = field.metadata["options"] or (f"--{field.name.replace('_', '-')}",)
    info = typer.Option(*flags, help=field.metadata["help"])
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[hint, info],
    )


_UNASKED = {"AnonymizeParams": object}
