"""A setting that commands, forms and services offer: a field of a settings object with its help."""

from dataclasses import field
from typing import Any

from deid.errors import DeidError

MOST = 1_000_000
"""Of seconds, processes and the like: what waits and counts by them takes no number without end."""


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


def check_number(name: str, value: float, zero: bool = False, most: int = MOST) -> None:
    """`DeidError` unless a setting is more than 0, or 0 where that has a meaning, and not more than
    `most`."""
    flag = f"--{name.replace('_', '-')} {value}"
    if not (value > 0 or (zero and value == 0)):  # nor a number
        raise DeidError(f"{flag}: must {'not be less' if zero else 'be more'} than 0")
    if value > most:
        raise DeidError(f"{flag}: must be at most {most}")
