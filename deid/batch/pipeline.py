"""One encoded picture in, a safe one out: the settings of a run and the networks built for them."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from torch import Tensor

from deid.anonymize import ModelPaths
from deid.batch.asked import (
    anonymize_params,
    check_method,
    check_pose,
    expression_of,
    notes_for,
    region_of,
)
from deid.batch.bundle import UNKNOWN, Origin
from deid.batch.manifest import PREVIEW_SUFFIX, PREVIEWS, FileRecord, RunInfo
from deid.batch.preview import REASON, draw_preview, planned
from deid.batch.settings import RunSettings, is_secret, told_seed, with_seed
from deid.errors import DeidError, NoFile
from deid.faces.detection import build_detector, weights_of
from deid.faces.faces import FaceDetector
from deid.gate.choose import build_chooser, reference_files, reference_hashes
from deid.gate.components import Components
from deid.gate.domain import rendered_only
from deid.gate.face import Face
from deid.gate.fallback import build_anonymizers
from deid.gate.find import find_faces
from deid.gate.judges import build_verifier
from deid.gate.limits import Limits
from deid.gate.picture import deidentify_picture
from deid.gate.record import FaceRecord
from deid.gate.sixteen_bit import without_faces_in_depth
from deid.gate.transparency import without_hidden_faces
from deid.imaging.codec import FORMAT_OF, Decoded, decode, encode
from deid.imaging.metadata import NOTHING, Keep, parse_keep
from deid.params import AnonymizeParams
from deid.pixels import Pixels
from deid.secret import SecretKey, read_key
from deid.seeds import seed_of
from deid.storage.staging import file_sha256, files_sha256, fingerprint
from deid.worlds.world import World

PACKAGE = Path(__file__).resolve().parents[1]
_GROUND = ("diversity.py", "model.py", "pixels.py", "secret.py", "seeds.py")
_PACKAGED = ("worlds/mini/*.py", "worlds/photo/*.py")  # and no code that trains their networks
_WORLDS = (
    "worlds/world.py",
    "worlds/donors.py",
    "worlds/head_turns.py",
    "worlds/looks_shifts.py",
    *_PACKAGED,
    "worlds/public",
    "worlds/ffhq",
)
SHAPING = ("anonymize", "faces", "gate", "imaging", "nets", *_GROUND, *_WORLDS)
"""The code that shapes an output: a change of it makes outputs stale, as one of a setting does."""


@dataclass(frozen=True)
class Pipeline:
    """Settings with the networks built for them, and the hash that stands for both."""

    settings: RunSettings
    components: Components
    model: str  # hash of the networks
    notes: tuple[str, ...] = ()
    origin: Origin = UNKNOWN
    update_model: bool = False
    key: str = ""  # tells the secret key of pseudonyms from others, and nothing of it
    companions: Mapping[str, str] = field(default_factory=dict)  # `World.companions`

    @property
    def info(self) -> RunInfo:
        """What a batch must know before it begins."""
        content, stay = self.origin.content_sha256, not self.update_model
        if self.settings.dry_run:
            notes = (*self.notes, f"note: {REASON}")
            return RunInfo(self.fingerprint, PREVIEWS, PREVIEW_SUFFIX, notes, content, stay)
        return RunInfo(self.fingerprint, notes=self.notes, content=content, any_version=stay)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything that shapes an output, save the picture itself, and save which
        version of a registered model draws: each version names itself in its records."""
        anonymize = self.settings.anonymize or AnonymizeParams()
        asked = asdict(self.settings) | {"anonymize": anonymize.model_dump(), "key": self.key}
        asked |= {"seed": told_seed(self.settings.seed), **self.companions}
        model = self.model
        if self.origin.version:
            asked["anonymize"], model = None, self.origin.model
        files = {
            spec: [file_sha256(file) for file in weights_of(spec)]
            for spec in (*self.settings.detectors, *self.settings.recognizers)
        }
        chosen = [reference_hashes(self.settings.keep), reference_hashes(self.settings.only)]
        judges, detector = self.components.verifier.description, self.components.detector.name
        return fingerprint([code_sha256(), asked, files, chosen, judges, detector, model])

    def blank_record(self, name: str, input_sha256: str) -> FileRecord:
        """The record of an input of which nothing has become yet."""
        return FileRecord(
            file=name,
            status="",
            input_sha256=input_sha256,
            settings=self.fingerprint,
            method=self.settings.method,
            seed=None if is_secret(self.settings.seed) else self.settings.seed,
            model=self.model,
            origin=self.origin,
            detector=self.components.detector.name,
            thresholds=self.components.verifier.description,
        )

    def process(
        self, record: FileRecord, data: bytes, suffix: str = ""
    ) -> tuple[bytes, FileRecord]:
        """What is to be written for an encoded picture, to a name that ends in `suffix`, and its
        record but for the output's name; any exception means that nothing is."""
        settings = self.settings
        if settings.dry_run:
            picture = decode(data, "the file", NOTHING, settings.first_frame_only).pixels
            self.components.check_domain(picture)
            faces = find_faces(picture, self.components, settings.method)
            plans = tuple(planned(face) for face in faces)
            done = replace(record, status="previewed", reason=REASON, faces=plans)
            return draw_preview(picture, faces), done
        keep = parse_keep(settings.keep_metadata)
        decoded = decode(data, "the file", keep, settings.first_frame_only)
        decoded = decoded.stored_as(FORMAT_OF.get(suffix.lower(), decoded.form.format))
        limits = Limits(seconds=settings.seconds)
        encoded, records, notes = self.deidentify(decoded, record.input_sha256, limits)
        if not records and not settings.allow_no_face:
            raise DeidError("no face found; --allow-no-face copies it without its metadata")
        return encoded, replace(record, status="written", faces=tuple(records), notes=notes)

    def deidentify(
        self, decoded: Decoded, content: str, limits: Limits
    ) -> tuple[bytes, list[FaceRecord], tuple[str, ...]]:
        """A safe picture, encoded: exactly the bytes that were judged; what became of its faces;
        notes of what could not come back. `content` seeds it."""
        settings, keep = self.settings, parse_keep(self.settings.keep_metadata)
        detector, around = self.components.detector, self.components.region == "portrait"
        decoded = without_hidden_faces(decoded, detector, outlines=around)
        decoded = without_faces_in_depth(decoded, detector)

        def round_trip(pixels: Pixels) -> tuple[bytes, Pixels]:
            encoded = encode(pixels, decoded.alpha, decoded.form)
            return encoded, _seen(encoded, decoded, keep)

        def seed(face: int) -> int:
            return seed_of(f"photo/{content}", face, settings.seed)

        encoded, faces = deidentify_picture(
            decoded.pixels, self.components, settings.method, seed, round_trip, limits
        )
        return encoded, faces, decoded.notes


def _seen(encoded: bytes, decoded: Decoded, keep: Keep) -> Pixels:
    again = decode(encoded, "the output", keep)
    if (again.alpha is None) != (decoded.alpha is None):
        raise ValueError("the encoder changed the picture's transparency")
    return again.pixels


def build_pipeline(settings: RunSettings, world: World, models: ModelPaths | None) -> Pipeline:
    """Load all that a run needs; what is missing or broken is a `DeidError` before any picture."""
    settings = with_seed(settings)
    parse_keep(settings.keep_metadata)
    region = region_of(settings, world)
    check_method(settings.method, models)
    if settings.seconds is not None and not settings.seconds > 0:
        raise DeidError(f"{settings.seconds:g} seconds for a picture: must be more than 0")
    reference_files(settings.keep or settings.only)
    key = _key(settings)
    asked = anonymize_params(settings)
    check_pose(asked, world)
    expression = expression_of(settings, asked, region)
    anonymizers = build_anonymizers(settings.method, world, models, asked, key, expression)
    detector = _detector(settings, world)
    own = not settings.detectors
    verifier = build_verifier(settings.recognizers, world)

    def landmarks(images: Tensor) -> Tensor:
        return world.landmarks(images.to(world.device))

    components = Components(detector, landmarks, world.resolution, own, anonymizers, verifier)

    def find(picture: Pixels) -> list[Face]:
        return find_faces(picture, components, settings.method)

    chooser = build_chooser(settings.keep, settings.only, find, verifier)
    domain = rendered_only(world, settings.detectors, settings.recognizers, settings.rendered)
    components = replace(
        components, chooser=chooser, rendered_only=domain, region=region, relit=expression == "own"
    )
    told = key.identity if key is not None else ""
    model, notes = model_version(world, models), notes_for(settings)
    return Pipeline(settings, components, model, notes, key=told, companions=world.companions)


def _detector(settings: RunSettings, world: World) -> FaceDetector:
    try:
        return build_detector(settings.detectors, world, settings.detect_size)
    except DeidError as error:  # of a file that no client of a service named
        raise NoFile(error) if settings.detectors else error from None


def _key(settings: RunSettings) -> SecretKey | None:
    if settings.key is None:
        return None
    if settings.method != "swap":
        raise DeidError(f"--key: {settings.method} has no pseudonyms; give --method swap")
    return read_key(settings.key)


def model_version(world: World, models: ModelPaths | None) -> str:
    """A hash of every network that may draw an output; detectors are told by their own names."""
    whole = hashlib.sha256(f"{world.name} {world.weights_sha256}".encode())
    for folder in (models.stage_one, models.stage_two) if models else ():
        for file in sorted(folder.rglob("*.safetensors")) if folder else ():
            whole.update(file_sha256(file).encode())
    return whole.hexdigest()


@cache
def code_sha256(package: Path = PACKAGE) -> str:
    """A hash of the source of `SHAPING`."""
    names = (name if name.endswith(".py") else f"{name}/**/*.py" for name in SHAPING)
    return files_sha256(package, names)
