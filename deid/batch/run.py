"""What a run is asked for, the tools built for it, and what they make of one encoded picture.

`deidentify_path` does a file or a folder in this process; `deid.batch.batch` is what does it.
"""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from deid.anonymize import METHODS, ModelPaths
from deid.batch.batch import About, Summary, locate, run_batch
from deid.batch.manifest import PREVIEWS, FileRecord
from deid.batch.preview import REASON, SUFFIX, draw_preview, planned
from deid.batch.workers import Inline
from deid.errors import DeidError
from deid.faces.detection import build_detector, weights_of
from deid.gate.choose import build_chooser, reference_hashes
from deid.gate.domain import rendered_only
from deid.gate.face import Face
from deid.gate.picture import FaceRecord, Limits, Tools, deidentify_picture, find_faces
from deid.gate.rungs import build_rungs
from deid.gate.verify import build_verifier
from deid.imaging.codec import Decoded, decode, encode
from deid.imaging.metadata import Keep, parse_keep
from deid.params import AnonymizeParams
from deid.pixels import Pixels
from deid.seeds import seed_of
from deid.storage.staging import file_sha256, fingerprint
from deid.worlds.world import World

VERSION = 3  # raise it when the same settings give other pixels


@dataclass(frozen=True)
class RunSettings:
    """What a person asks for."""

    method: str = "swap"
    detectors: tuple[str, ...] = ()  # yunet, scrfd=FILE, …, see build_detector; none: the world's
    detect_size: int | None = None  # the longer side in a single pass; None: multi-scale
    recognizers: tuple[str, ...] = ()  # foamliu, arcface=FILE, …; none: the world's own
    anonymize: AnonymizeParams = field(default_factory=AnonymizeParams)
    seed: int = 0
    allow_no_face: bool = False
    keep_metadata: tuple[str, ...] = ()  # names, see deid.imaging.metadata; none: all of it goes
    keep: str | None = None  # a picture or a folder of pictures of people who stay as they are
    only: str | None = None  # the same, of the only people who are changed
    seconds: float | None = None  # for one picture, before its faces are masked; see `Limits`
    rendered: bool = False  # the pictures show rendered people, which mini's networks know
    dry_run: bool = False  # draw what would be done, write no output


@dataclass(frozen=True)
class Workshop:
    """Settings with the tools built for them, and the hash that stands for both."""

    settings: RunSettings
    tools: Tools
    model: str  # version of the networks
    notes: tuple[str, ...] = ()
    remedy: str = "--allow-no-face copies it without its metadata"  # of a picture without a face

    @property
    def about(self) -> About:
        """What a batch must know before it begins."""
        if self.settings.dry_run:
            return About(self.fingerprint, PREVIEWS, SUFFIX, (*self.notes, f"note: {REASON}"))
        return About(self.fingerprint, notes=self.notes)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything that shapes an output, save the picture itself."""
        asked = asdict(self.settings) | {"anonymize": self.settings.anonymize.model_dump()}
        files = {
            spec: [file_sha256(file) for file in weights_of(spec)]
            for spec in (*self.settings.detectors, *self.settings.recognizers)
        }
        chosen = [reference_hashes(self.settings.keep), reference_hashes(self.settings.only)]
        judges, detector = self.tools.verifier.description, self.tools.detector.name
        return fingerprint([VERSION, asked, files, chosen, judges, detector, self.model])

    def blank(self, name: str, input_sha256: str) -> FileRecord:
        """The record of an input of which nothing has become yet."""
        return FileRecord(
            file=name,
            status="",
            input_sha256=input_sha256,
            settings=self.fingerprint,
            method=self.settings.method,
            seed=self.settings.seed,
            model=self.model,
            detector=self.tools.detector.name,
            thresholds=self.tools.verifier.description,
        )

    def treat(self, blank: FileRecord, data: bytes) -> tuple[bytes, FileRecord]:
        """What is to be written for an encoded picture, and its record but for the output's name;
        any exception means that nothing is."""
        if self.settings.dry_run:
            picture = decode(data, "the file").pixels
            self.tools.check_domain(picture)
            faces = find_faces(picture, self.tools, self.settings.method)
            plans = tuple(planned(face) for face in faces)
            record = replace(blank, status="previewed", reason=REASON, faces=plans)
            return draw_preview(picture, faces), record
        encoded, done, notes = self.make_safe(data, blank.input_sha256)
        return encoded, replace(blank, status="written", faces=tuple(done), notes=notes)

    def make_safe(
        self, data: bytes, input_sha256: str
    ) -> tuple[bytes, list[FaceRecord], tuple[str, ...]]:
        """The safe picture of an encoded one, what became of its faces, and notes of what could
        not come back. Any exception means that there is none."""
        decoded = decode(data, "the file", parse_keep(self.settings.keep_metadata))
        judged, faces = self.judged(decoded, input_sha256)
        if not faces and not self.settings.allow_no_face:
            raise DeidError(f"no face found; {self.remedy}")
        return judged, faces, decoded.notes

    def judged(
        self, decoded: Decoded, content: str, limits: Limits | None = None
    ) -> tuple[bytes, list[FaceRecord]]:
        """A safe picture, encoded: exactly the bytes that were judged; `content` seeds it."""
        settings, encoded = self.settings, b""
        keep = parse_keep(settings.keep_metadata)

        def through(pixels: Pixels) -> Pixels:
            nonlocal encoded
            encoded = encode(pixels, decoded.alpha, decoded.form)
            return _seen(encoded, decoded, keep)

        def seed(face: int) -> int:
            return seed_of(f"photo/{content}", face, settings.seed)

        limits = limits or Limits(seconds=settings.seconds)
        _, faces = deidentify_picture(
            decoded.pixels, self.tools, settings.method, seed, through, limits
        )
        return encoded, faces


def _seen(encoded: bytes, decoded: Decoded, keep: Keep) -> Pixels:
    again = decode(encoded, "the output", keep)
    if (again.alpha is None) != (decoded.alpha is None):
        raise ValueError("the encoder changed the picture's transparency")
    return again.pixels


def build_workshop(settings: RunSettings, world: World, models: ModelPaths | None) -> Workshop:
    """Load all that a run needs; what is missing or broken is a `DeidError` before any picture."""
    parse_keep(settings.keep_metadata)
    base = settings.method.partition("-")[0]
    if base not in METHODS:
        raise DeidError(f"method {settings.method!r}: unknown; choose one of {', '.join(METHODS)}")
    if settings.seconds is not None and not settings.seconds > 0:
        raise DeidError(f"{settings.seconds:g} seconds for a picture: must be more than 0")
    anonymizers = build_rungs(settings.method, world, models, settings.anonymize)
    detector = build_detector(settings.detectors, world, settings.detect_size)
    own = not settings.detectors
    verifier = build_verifier(settings.recognizers, world)

    def landmarks(images: Tensor) -> Tensor:
        return world.landmarks(images.to(world.device))

    tools = Tools(detector, landmarks, world.resolution, own, anonymizers, verifier)

    def find(picture: Pixels) -> list[Face]:
        return find_faces(picture, tools, settings.method)

    chooser = build_chooser(settings.keep, settings.only, find, verifier)
    domain = rendered_only(world, settings.detectors, settings.recognizers, settings.rendered)
    tools = replace(tools, chooser=chooser, rendered_only=domain)
    return Workshop(settings, tools, model_version(world, models))


def model_version(world: World, models: ModelPaths | None) -> str:
    """A hash of every network that may draw an output; detectors are told by their own names."""
    whole = hashlib.sha256(f"{world.name} {world.weights_sha256}".encode())
    for folder in (models.stage_one, models.stage_two) if models else ():
        for file in sorted(folder.rglob("*.safetensors")) if folder else ():
            whole.update(file_sha256(file).encode())
    return whole.hexdigest()


def deidentify_path(source: Path, destination: Path, workshop: Workshop) -> Summary:
    """De-identify a picture or a folder of pictures into `destination`, in this process.

    A folder's tree is kept. A single picture goes to `destination` if that has a picture's suffix,
    else into it. `DeidError` for a missing source, a destination that is or holds the source, or
    one that cannot be written; a picture that cannot be made safe is quarantined and the rest goes
    on.
    """
    places = locate(str(source), str(destination))
    return run_batch(places, lambda _: Inline(workshop, places))
