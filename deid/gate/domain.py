"""A photograph is refused by networks that were trained on rendered people only.

A detector of another domain misses faces, and a recognizer of another domain knows nobody, so that
a face would leave untouched and be called verified.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deid.errors import DeidError
from deid.pixels import Pixels, picture_sha256
from deid.worlds.world import World

_OPTIONS = {"detector": "--detector yunet", "recognizers": "--recognizer foamliu"}


@dataclass(frozen=True)
class RenderedOnly:
    """Which `networks` of a run know rendered people only, and the pictures (`picture_sha256`) that
    they may be used on."""

    networks: tuple[str, ...]
    samples: frozenset[str]

    def check(self, picture: Pixels) -> None:
        """`DeidError` unless `uint8 [H,W,3]` is one of the samples."""
        if picture_sha256(picture) in self.samples:
            return
        options = " ".join(_OPTIONS[network] for network in self.networks)
        raise DeidError(
            f"may be a photograph, and the {' and '.join(self.networks)} in use know rendered "
            f"people only: give --world photo, or {options}, once `deid weights fetch` has their "
            "files (or --rendered if no real person is in it)"
        )


def rendered_only(
    world: World, detectors: Sequence[str], recognizers: Sequence[str], rendered: bool
) -> RenderedOnly | None:
    """What a run with these detector and recognizer specs must refuse; None where every picture is
    in the domain of its networks, or the caller says that all are `rendered`."""
    if rendered or world.domain == "photographs":
        return None
    asked = {"detector": detectors, "recognizers": recognizers}
    networks = tuple(name for name, specs in asked.items() if set(specs) <= {world.name})
    return RenderedOnly(networks, world.samples) if networks else None
