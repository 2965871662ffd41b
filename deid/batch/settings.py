"""What a person asks of a run: one object for the command line, the library and the flow.

A field's help is what `deid run --help` shows; its option is named after it, unless `option` says
otherwise.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deid.errors import DeidError

if TYPE_CHECKING:  # so that the help of a command does not wait for what reads params.yaml
    from deid.params import AnonymizeParams

TIMEOUT = 300.0  # seconds for one file
METHODS = ("swap", "adversarial", "fgsm", "pgd", "blur", "pixelate", "mask")
ENGINES = ("processes", "ray")


def _asked(
    default: Any, help_text: str, *options: str, choices: tuple[str, ...] | None = None
) -> Any:
    """`choices` are what a form offers; a command line takes more (`pgd-0.1`) and checks itself."""
    metadata = {"help": help_text, "options": options, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunSettings:
    """What shapes an output."""

    method: str = _asked(
        "swap", "swap, adversarial, fgsm, pgd, blur, pixelate or mask.", choices=METHODS
    )
    detectors: tuple[str, ...] = _asked(
        (),
        "yunet, scrfd or mtcnn (see `deid weights fetch`), or with a path: yunet=FILE, scrfd=FILE, "
        "mtcnn=FOLDER; needed for photographs. Given several times: a face that any of them finds "
        "counts.",
        "--detector",
    )
    detect_size: int | None = _asked(
        None, "Detect in a single pass, the longer side so many pixels: faster, misses more."
    )
    recognizers: tuple[str, ...] = _asked(
        (),
        "What verifies: foamliu or arcface, or with a path: foamliu=FILE; needed for photographs. "
        "Given several times: none may know a face.",
        "--recognizer",
        "--recogniser",
    )
    seed: int = _asked(0, "Another seed gives other faces.")
    donor: str | None = _asked(
        None,
        "For swap: a stranger of like age, sex and skin (alike), or any stranger (any); if not "
        "given, what the parameters say (swap_donors).",
        choices=("alike", "any"),
    )
    quality: str = _asked(
        "normal",
        "high: each new face is refined by gradient steps, in seconds, so that a swap follows the "
        "expression closely and adversarial starts from the very person.",
        choices=("normal", "high"),
    )
    region: str | None = _asked(
        None,
        "What a new face replaces: face, from brow to chin, or head, with forehead and hairline; "
        "if not given, what suits the networks.",
        choices=("face", "head"),
    )
    allow_no_face: bool = _asked(
        False, "Write pictures without a face, re-encoded without metadata."
    )
    rendered: bool = _asked(
        False, "The pictures show rendered people, as the mini world draws them."
    )
    first_frame_only: bool = _asked(
        False, "Of films and files of several pages, write the first picture."
    )
    keep_metadata: tuple[str, ...] = _asked(
        (), "icc, dpi, exif, exif:TAG, xmp:PREFIX:NAME, iptc:NAME; else all of it goes."
    )
    keep: str | None = _asked(
        None, "Picture or folder of people who stay as they are, a face a picture."
    )
    only: str | None = _asked(None, "The same, of the only people who are changed.")
    seconds: float | None = _asked(
        None,
        "Seconds for one picture, after which its faces are masked; after twice as long it is "
        "given up. What is written then depends on the machine's speed.",
        "--time-limit",
    )
    dry_run: bool = _asked(
        False, "Only draw boxes, into copies of the originals: DST/….preview.png."
    )
    anonymize: "AnonymizeParams | None" = None  # not asked: from params; None: its defaults


@dataclass(frozen=True)
class BatchSettings:
    """What shapes no output: who works, where records go."""

    jobs: int = _asked(1, "Processes; each holds the networks.")
    timeout: float = _asked(TIMEOUT, "Seconds after which a file is given up and quarantined.")
    audit: str | None = _asked(
        None,
        "Where the records go, if not to the destination (of a single picture: to a hidden folder "
        "there).",
    )
    encryption: str | None = _asked(
        None, "What S3 encrypts new objects with: AES256, aws:kms or aws:kms:KEY-ID."
    )
    update_model: bool = _asked(
        False,
        "Make outputs of other versions of the registered model again, with the one chosen; "
        "without this, a promotion changes no output that is there.",
    )
    prune: bool = _asked(False, "Remove outputs of inputs that are no longer in the source.")
    retry_quarantined: bool = _asked(
        False,
        "Try pictures again that an earlier run quarantined for what is in them; else only those "
        "that changed since, or under other settings.",
    )
    engine: str = _asked(
        "processes",
        "processes: on this machine; ray: on a Ray cluster (extra `ray`).",
        choices=ENGINES,
    )
    address: str | None = _asked(
        None, "Of the Ray cluster, HOST:PORT or auto; else Ray is started on this machine."
    )
    gpus: float = _asked(0.0, "GPUs for each process, or a share of one; with --engine ray.")
    shard_size: int = _asked(64, "Files that a cluster, or a task of the flow, gets at a time.")

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.timeout <= 0:
            raise DeidError(f"{self.jobs} jobs, {self.timeout:g} s: both must be more than 0")
        if self.shard_size < 1 or self.gpus < 0:
            raise DeidError(
                f"{self.shard_size} files in a shard, {self.gpus:g} GPUs: correct the number"
            )
        if self.engine not in ENGINES:
            raise DeidError(f"engine {self.engine!r}: unknown; choose {' or '.join(ENGINES)}")
        if self.engine == "processes" and (self.address or self.gpus):
            raise DeidError("--address and --gpus are of a Ray cluster; give --engine ray, too")
