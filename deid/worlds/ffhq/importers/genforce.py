"""To be filled in."""

from deid.worlds.ffhq.importers.base import Format

GENFORCE_FORMATS: tuple[Format, ...] = ()
