"""A file or a folder of pictures, de-identified: `deidentify_path`.

Every input ends as exactly one of: written, quarantined (no output, with a reason), skipped (not a
picture), or done already. Quarantine copies nothing: the original stays where it is, untouched.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from deid.anonymize import METHODS, ModelPaths, build
from deid.errors import DeidError
from deid.images import Pixels
from deid.params import AnonymizeParams
from deid.photo.codec import SUFFIXES, Decoded, decode, encode
from deid.photo.detect import build_detector
from deid.photo.manifest import NAME, FileRecord, Manifest
from deid.photo.metadata import Keep, parse_keep
from deid.photo.picture import FaceRecord, Tools, deidentify_picture
from deid.privacy.ladder import OPAQUE, ladder
from deid.privacy.verify import build_verifier
from deid.progress import progress
from deid.seeds import seed_of
from deid.staging import file_sha256, fingerprint, write_atomically
from deid.worlds.world import World

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same settings give other pixels
OTHER_PICTURES = frozenset(
    {".jp2", ".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)


@dataclass(frozen=True)
class RunSettings:
    """What a person asks for."""

    method: str = "swap"
    detector: str | None = None  # scrfd=FILE, yunet=FILE; None: the world's own
    recognisers: tuple[str, ...] = ()  # foamliu=FILE, arcface=FILE; none: the world's own
    anonymize: AnonymizeParams = field(default_factory=AnonymizeParams)
    seed: int = 0
    allow_no_face: bool = False
    keep_metadata: tuple[str, ...] = ()  # names, see deid.photo.metadata; none: all of it goes


@dataclass(frozen=True)
class Workshop:
    """Settings with the tools built for them, and the hash that stands for both."""

    settings: RunSettings
    tools: Tools
    model: str  # version of the networks
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes with everything that shapes an output, save the picture itself."""
        asked = asdict(self.settings) | {"anonymize": self.settings.anonymize.model_dump()}
        files = {
            spec: file_sha256(Path(spec.partition("=")[2]))
            for spec in (self.settings.detector, *self.settings.recognisers)
            if spec
        }
        judges = self.tools.verifier.description
        return fingerprint([VERSION, asked, files, judges, self.model])


@dataclass
class Summary:
    """Counts of a batch; `failed` means that the command must not exit with 0."""

    destination: Path
    counts: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether any picture was withheld."""
        return self.counts["quarantined"] > 0

    def text(self) -> str:
        """What a person reads at the end: counts, rungs, at most ten problems."""
        c = self.counts
        lines = [
            f"{c['written']} written, {c['done']} done before, {c['quarantined']} quarantined, "
            f"{c['skipped']} skipped; {self.destination / NAME}",
        ]
        if self.rungs:
            rungs = ", ".join(f"{count} by {rung}" for rung, count in sorted(self.rungs.items()))
            lines.append(f"faces: {rungs}")
        lines += self.problems[:10]
        if len(self.problems) > 10:
            lines.append(f"… and {len(self.problems) - 10} more in the manifest")
        return "\n".join([*lines, *self.notes])


def build_workshop(settings: RunSettings, world: World, models: ModelPaths | None) -> Workshop:
    """Load all that a run needs; what is missing or broken is a `DeidError` before any picture."""
    parse_keep(settings.keep_metadata)
    base = settings.method.partition("-")[0]
    if base not in METHODS:
        raise DeidError(f"method {settings.method!r}: unknown; choose one of {', '.join(METHODS)}")
    coarse = settings.anonymize.model_copy(
        update={"pixelate_blocks": min(4, settings.anonymize.pixelate_blocks)}
    )
    anonymizers = {
        rung: build(rung, world, models, settings.anonymize if n == 0 else coarse)
        for n, rung in enumerate(ladder(settings.method))
        if rung != OPAQUE
    }
    detector = build_detector(settings.detector, world)
    own = detector is world.detector
    verifier = build_verifier(settings.recognisers, world)
    tools = Tools(detector, world.landmarks, world.resolution, own, anonymizers, verifier)
    notes: tuple[str, ...] = ()
    if not own and not settings.recognisers:
        notes = (
            f"note: the judges are the {world.name} world's, which know no real people; "
            "give --recogniser for photographs",
        )
    return Workshop(settings, tools, model_version(world, models), notes)


def model_version(world: World, models: ModelPaths | None) -> str:
    """A hash of every network that may shape an output."""
    whole = hashlib.sha256(f"{world.name} {world.weights_sha256}".encode())
    for folder in (models.stage_one, models.stage_two) if models else ():
        for file in sorted(folder.rglob("*.safetensors")) if folder else ():
            whole.update(file_sha256(file).encode())
    return whole.hexdigest()


def deidentify_path(source: Path, destination: Path, workshop: Workshop) -> Summary:
    """De-identify a picture or a folder of pictures into `destination`.

    A folder's tree is kept. A single picture goes to `destination` if that has a picture's suffix,
    else into it. `DeidError` for a missing source, a destination that is or holds the source, or
    one that cannot be written; a picture that cannot be made safe is quarantined and the rest goes
    on.
    """
    jobs = list(_jobs(source, destination))
    folder = destination if not _names_a_picture(source, destination) else destination.parent
    _open_destination(folder)
    manifest = Manifest(folder)
    summary = Summary(folder, notes=workshop.notes)
    batch = _Batch(workshop, manifest, folder, workshop.fingerprint)
    with progress("de-identify", total=len(jobs)) as bar:
        for path, relative, output in jobs:
            record, status = batch.handle(path, relative, output)
            summary.counts[status] += 1
            summary.rungs.update(face.method for face in record.faces)
            if record.status == "quarantined":
                summary.problems.append(f"{record.file}: {record.reason}")
            bar.advance()
    with _writing(folder):
        manifest.close()
    return summary


Job = tuple[Path, str, Path]
"""An input, its name in the manifest, and where its output goes."""


def _jobs(source: Path, destination: Path) -> Iterator[Job]:
    if not source.exists():
        raise DeidError(f"{source}: no such file or folder; correct the path")
    real, target = source.resolve(), destination.resolve()
    if real == target or real.is_relative_to(target):
        raise DeidError(f"{destination}: holds the originals; choose another destination")
    if source.is_file():
        into = _names_a_picture(source, destination)
        output = destination if into else destination / source.name
        if output.exists() and output.samefile(source):
            raise DeidError(f"{output}: is the original; choose another destination")
        yield real, source.name, output
        return
    for root, folders, files in os.walk(source):
        folders[:] = sorted(f for f in folders if (Path(root) / f).resolve() != target)
        for name in sorted(files):
            path = Path(root) / name
            relative = path.relative_to(source)
            yield path, relative.as_posix(), destination / relative


def _names_a_picture(source: Path, destination: Path) -> bool:
    return source.is_file() and not destination.is_dir() and destination.suffix.lower() in SUFFIXES


def _open_destination(folder: Path) -> None:
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".deid-probe"
        probe.write_bytes(b"")
        probe.unlink()


class _writing:
    """Turns a failure to write into one line; nothing more can be done in such a destination."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise DeidError(
                f"{self.path}: cannot be written ({reason}); free space or choose another "
                "destination, then run the same command to go on"
            ) from None


@dataclass(frozen=True)
class _Batch:
    workshop: Workshop
    manifest: Manifest
    folder: Path
    settings: str

    def handle(self, path: Path, relative: str, output: Path) -> tuple[FileRecord, str]:
        """Bring one input to its end and put it on record; also the word it is counted under."""
        reason = _not_for_us(path)
        if reason:
            return self._recorded(FileRecord(relative, "skipped", reason))
        try:
            if path.suffix.lower() in OTHER_PICTURES:
                raise DeidError(f"format {path.suffix} is not supported; convert it to PNG or JPEG")
            data = path.read_bytes()
        except (DeidError, OSError) as error:
            return self._withheld(FileRecord(relative, "quarantined", _reason(error)), output)
        blank = self._blank(relative, hashlib.sha256(data).hexdigest())
        if self._is_done(blank, output):
            return blank, "done"
        try:
            encoded, faces, notes = self._make_safe(data, blank.input_sha256)
        except Exception as error:
            log.debug("%s", path, exc_info=True)
            return self._withheld(_replace(blank, "quarantined", _reason(error)), output)
        return self._written(replace(blank, notes=notes), output, encoded, faces)

    def _blank(self, relative: str, sha256: str) -> FileRecord:
        settings, tools = self.workshop.settings, self.workshop.tools
        return FileRecord(
            file=relative,
            status="",
            input_sha256=sha256,
            settings=self.settings,
            method=settings.method,
            seed=settings.seed,
            model=self.workshop.model,
            detector=tools.detector.name,
            thresholds=tools.verifier.description,
        )

    def _is_done(self, blank: FileRecord, output: Path) -> bool:
        last = self.manifest.last(blank.file)
        return (
            last is not None
            and last.get("status") == "written"
            and last.get("input_sha256") == blank.input_sha256
            and last.get("settings") == blank.settings
            and output.is_file()
            and last.get("output_sha256") == file_sha256(output)
        )

    def _make_safe(
        self, data: bytes, sha256: str
    ) -> tuple[bytes, list[FaceRecord], tuple[str, ...]]:
        """The safe picture, encoded: exactly the bytes that were judged; and what it lost."""
        settings = self.workshop.settings
        keep = parse_keep(settings.keep_metadata)
        decoded = decode(data, "the file", keep)
        judged = b""

        def through(pixels: Pixels) -> Pixels:
            nonlocal judged
            judged = encode(pixels, decoded.alpha, decoded.form)
            return _seen(judged, decoded, keep)

        def seed(face: int) -> int:
            return seed_of(f"photo/{sha256}", face, settings.seed)

        _, faces = deidentify_picture(
            decoded.pixels, self.workshop.tools, settings.method, seed, through
        )
        if not faces and not settings.allow_no_face:
            raise DeidError("no face found; --allow-no-face copies it without its metadata")
        return judged, faces, decoded.notes

    def _written(
        self, blank: FileRecord, output: Path, encoded: bytes, faces: list[FaceRecord]
    ) -> tuple[FileRecord, str]:
        sha256 = hashlib.sha256(encoded).hexdigest()
        if output.exists() and not self._is_ours(blank.file, output, sha256):
            reason = "another file of its name is at the destination; choose another destination"
            return self._recorded(_replace(blank, "quarantined", reason))
        with _writing(output):
            write_atomically(output, encoded)
        record = FileRecord(
            **{
                **vars(blank),
                "status": "written",
                "output": output.relative_to(self.folder).as_posix(),
                "output_sha256": sha256,
                "faces": tuple(faces),
            }
        )
        return self._recorded(record)

    def _withheld(self, record: FileRecord, output: Path) -> tuple[FileRecord, str]:
        """Quarantine; an output that an earlier run wrote for this input does not stay behind."""
        if output.is_file() and self._is_ours(record.file, output, ""):
            with _writing(output):
                output.unlink()
        return self._recorded(record)

    def _is_ours(self, file: str, output: Path, sha256: str) -> bool:
        """Whether what lies at `output` came from this input, by its record or by its bytes."""
        last = self.manifest.last(file) or {}
        return output.is_file() and file_sha256(output) in (last.get("output_sha256"), sha256)

    def _recorded(self, record: FileRecord) -> tuple[FileRecord, str]:
        with _writing(self.manifest.path):
            self.manifest.append(record)
        return record, record.status


def _not_for_us(path: Path) -> str:
    if path.is_symlink():
        return "a symbolic link"
    if not path.is_file():
        return "not a regular file"
    known = path.suffix.lower() in SUFFIXES | OTHER_PICTURES
    return "" if known else "not a picture by its suffix"


def _seen(encoded: bytes, decoded: Decoded, keep: Keep) -> Pixels:
    again = decode(encoded, "the output", keep)
    if (again.alpha is None) != (decoded.alpha is None):
        raise ValueError("the encoder changed the picture's transparency")
    return again.pixels


def _replace(blank: FileRecord, status: str, reason: str) -> FileRecord:
    return FileRecord(**{**vars(blank), "status": status, "reason": reason})


def _reason(error: Exception) -> str:
    if isinstance(error, DeidError):
        text = str(error)
    elif isinstance(error, OSError):
        text = f"not readable ({error.strerror or error})"
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
