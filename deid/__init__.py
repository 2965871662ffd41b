"""Makes faces unrecognizable and keeps pictures useful.

    from deid import deidentify
    result = deidentify("party.jpg", method="blur")
    result.save("party-safe.jpg")

See `deid.api.deidentify`. Nothing heavy is imported before it is called.
"""

from typing import TYPE_CHECKING, Any

from deid.errors import DeidError

if TYPE_CHECKING:
    from deid.api import Result, deidentify

__version__ = "0.1.0"

__all__ = ["DeidError", "Result", "__version__", "deidentify"]


def __getattr__(name: str) -> Any:
    if name in ("Result", "deidentify"):
        from deid import api

        return getattr(api, name)
    raise AttributeError(f"module 'deid' has no attribute {name!r}")
