"""What a person asks of a run: one object for the command line, the library and the flow.

A field's help is what `deid run --help` shows.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deid.errors import DeidError
from deid.option import check_number, option
from deid.secret import read_key

if TYPE_CHECKING:  # so that the help of a command does not wait for what reads params.yaml
    from deid.params import AnonymizeParams

TIMEOUT = 300.0  # seconds for one file
METHODS = ("swap", "adversarial", "fgsm", "pgd", "blur", "pixelate", "mask")
RIVALS = (
    *("ksame-average", "ksame-select", "ksame-furthest", "fawkes", "lowkey", "tipim"),
    *("patch", "glasses", "hat", "undetected"),
    *("alae", "infogan", "beta-vae", "fsgan", "faceshifter", "ciagan"),
)
"""Of the field, for comparison (docs/rivals.md)."""

TRAINED = ("swap", "adversarial")  # methods whose networks `dvc repro` trains
ENGINES = ("processes", "ray")

SECRET = 10**14
"""A seed that is further from 0 is nobody's to guess, and is kept as a secret is."""


@dataclass(frozen=True)
class RunSettings:
    """What shapes an output."""

    method: str = option(
        "swap",
        "swap, adversarial, fgsm, pgd, blur, pixelate or mask; for comparison the field's "
        f"{', '.join(RIVALS)}.",
        choices=(*METHODS, *RIVALS),
    )
    detectors: tuple[str, ...] = option(
        (),
        "yunet, scrfd or mtcnn (see `deid weights fetch`), or with a path: yunet=FILE, scrfd=FILE, "
        "mtcnn=FOLDER; else the world's own. Given several times: a face that any of them finds "
        "counts.",
        "--detector",
    )
    detect_size: int | None = option(
        None, "Detect in a single pass, the longer side so many pixels: faster, misses more."
    )
    recognizers: tuple[str, ...] = option(
        (),
        "What verifies: foamliu or arcface, or with a path: foamliu=FILE; else the world's own. "
        "Given several times: none may know a face.",
        "--recognizer",
        "--recogniser",
    )
    seed: int = option(
        0,
        "Another seed gives other faces. One of 15 digits or more is a secret that no record has.",
        shown=False,
    )
    seed_file: str | None = option(
        None,
        "File of a secret seed (`deid key new FILE`), in place of --seed, which the history of a "
        "shell has.",
    )
    donor: str | None = option(
        None,
        "For swap: a stranger of like age, sex and skin (alike), or any stranger (any); if not "
        "given, what the parameters say (swap_donors).",
        choices=("alike", "any"),
    )
    key: str | None = option(
        None,
        "For swap: file of a secret key (`deid key new FILE`), under which each person has the "
        "same new face in every picture, and another one under another key.",
    )
    strength: float = option(
        1.0,
        "For swap and adversarial, 0 to 1: how far from the person's own face to the new one; 0 is "
        "the person as the networks draw it. What a recognizer still knows gets full strength.",
    )
    keep_attributes: str | None = option(
        None,
        "For swap: what new faces have in common with the person, of age,sex,skin and pose, which "
        "--region head and portrait follow but roughly without it; if not given, the first three, "
        "or what the parameters say (swap_keep); with --key, sex.",
    )
    donor_pool: int | None = option(
        None,
        "For swap: so few donors, 4 or more, that each serves many people and tells little of who "
        "they are; they are less alike. If not given, what the parameters say (swap_pool).",
    )
    expression: str = option(
        "own",
        "For swap with --region portrait: another, that of a stranger, with another pose and "
        "light, so that who has the very photograph hardly tells whose output it is; with a "
        "--seed-file or a --key, which are secret.",
        choices=("own", "another"),
    )
    quality: str = option(
        "normal",
        "high: each new face is refined by gradient steps, in seconds, so that a swap follows the "
        "expression closely and adversarial starts from the very person.",
        choices=("normal", "high"),
    )
    region: str | None = option(
        None,
        "What a new face replaces: face, from brow to chin; head, with forehead and hairline; or "
        "portrait, all of the square about it with hair and background, as the generator draws "
        "them; if not given, what suits the networks.",
        choices=("face", "head", "portrait"),
    )
    allow_no_face: bool = option(
        False, "Write pictures without a face, re-encoded without metadata."
    )
    rendered: bool = option(
        False, "The pictures show rendered people, as the mini world draws them."
    )
    first_frame_only: bool = option(
        False, "Of films and files of several pages, write the first picture."
    )
    keep_metadata: tuple[str, ...] = option(
        (), "icc, dpi, exif, exif:TAG, xmp:PREFIX:NAME, iptc:NAME; else all of it goes."
    )
    keep: str | None = option(
        None, "Picture or folder of people who stay as they are, a face a picture."
    )
    only: str | None = option(None, "The same, of the only people who are changed.")
    seconds: float | None = option(
        None,
        "Seconds for one picture, after which its faces are masked; after twice as long it is "
        "given up. What is written then depends on the machine's speed.",
        "--time-limit",
    )
    dry_run: bool = option(
        False, "Only draw boxes, into copies of the originals: DST/….preview.png."
    )
    anonymize: "AnonymizeParams | None" = None  # not asked: from params; None: its defaults


def is_secret(seed: int) -> bool:
    """Whether a seed is too large to be found by trying."""
    return abs(seed) >= SECRET


def with_seed(asked: RunSettings) -> RunSettings:
    """The same with the seed that is in its `seed_file`, where one is named."""
    if asked.seed_file is None:
        return asked
    if asked.seed != RunSettings.seed:
        raise DeidError("--seed and --seed-file: give one of them, not both")
    return replace(asked, seed=read_key(asked.seed_file).seed(), seed_file=None)


def told_seed(seed: int) -> int | str:
    """What a fingerprint may have of a seed: of a secret one, what only costly trying leads back
    from, for fingerprints stand in records."""
    if not is_secret(seed):
        return seed
    return hashlib.scrypt(str(seed).encode(), salt=b"deid seed", n=2**14, r=8, p=1).hex()


@dataclass(frozen=True)
class BatchSettings:
    """What shapes no output: who works, where records go."""

    jobs: int = option(1, "Processes; each holds the networks.")
    timeout: float = option(TIMEOUT, "Seconds after which a file is given up and quarantined.")
    audit: str | None = option(
        None,
        "Where the records go, if not to the destination (of a single picture: to a hidden folder "
        "there); no folder that holds the originals.",
    )
    encryption: str | None = option(
        None, "What S3 encrypts new objects with: AES256, aws:kms or aws:kms:KEY-ID."
    )
    update_model: bool = option(
        False,
        "Make outputs of other versions of the registered model again, with the one chosen; "
        "without this, a promotion changes no output that is there.",
    )
    prune: bool = option(
        False, "Remove outputs of inputs that are no longer in the source, unless it is empty."
    )
    retry_quarantined: bool = option(
        False,
        "Try pictures again that an earlier run quarantined for what is in them; else only those "
        "that changed since, or under other settings.",
    )
    engine: str = option(
        "processes",
        "processes: on this machine; ray: on a Ray cluster (extra `ray`).",
        choices=ENGINES,
    )
    address: str | None = option(
        None, "Of the Ray cluster, HOST:PORT or auto; else Ray is started on this machine."
    )
    gpus: float = option(0.0, "GPUs for each process, or a share of one; with --engine ray.")
    shard_size: int = option(64, "Files that a cluster, or a task of the flow, gets at a time.")

    def __post_init__(self) -> None:
        for name in ("jobs", "timeout", "shard_size"):
            check_number(name, getattr(self, name))
        check_number("gpus", self.gpus, zero=True)
        if self.engine not in ENGINES:
            raise DeidError(f"engine {self.engine!r}: unknown; choose {' or '.join(ENGINES)}")
        if self.engine == "processes" and (self.address or self.gpus):
            raise DeidError("--address and --gpus are of a Ray cluster; give --engine ray, too")
