"""To be filled in."""

from deid.worlds.ffhq.importers.base import Format

NVIDIA_FORMATS: tuple[Format, ...] = ()
