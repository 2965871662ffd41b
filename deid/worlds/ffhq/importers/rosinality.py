"""To be filled in."""

from deid.worlds.ffhq.importers.base import Format

ROSINALITY_FORMATS: tuple[Format, ...] = ()
