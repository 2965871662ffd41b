"""A setting that commands, forms and services offer: a field of a settings object with its help."""

from dataclasses import field
from typing import Any


def option(
    default: Any,
    help_text: str,
    *flags: str,
    choices: tuple[str, ...] | None = None,
    shown: bool = True,
) -> Any:
    """A field of a dataclass; its option is named after it, unless `flags` say otherwise.

    `choices` are what a form offers; a command line takes more (`pgd-0.1`) and checks itself.
    What may be a secret is not `shown` where its object is.
    """
    metadata = {"help": help_text, "options": flags, "choices": choices}
    return field(default=default, metadata=metadata, repr=shown)
