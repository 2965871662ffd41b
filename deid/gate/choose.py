"""Faces that a person chose by reference pictures: kept as they are, or the only ones changed.

To keep a face is to publish it, so doubt never keeps one. `keep` keeps a face in which every
judge sees the person of one reference, well above the similarity at which it would call two faces
one person. `only` keeps a face in which no judge sees any of the references even at the lower
similarity that the gate uses. At least two judges are asked, and a face too small to be judged is
not kept.

Measured on 80 people of the mini world that no training saw, four views each: `keep` knew a person
again in 79 % of pairs of views and took nobody for another in 50,560 pairs; `only` missed 0.2 %.

Measured on 200 synthetic portraits with foamliu's MobileFaceNet as the only judge, which keeps
from a cosine of 0.718 on: it knew every portrait again in a copy made smaller, larger, darker,
brighter, mirrored, turned by 8° or compressed (quality 30), or most of these at once. Of 19,900
pairs of portraits it took three for one person; they look it to the eye as well. The next is at
0.705, so one judge is close to its limit: hence two. Of 150 portraits made small or spoilt it knew
fewer again (at 32 pixels: half; at 25: 3 %; at 48 and quality 20: 3 %), and no stranger but these.
Other photographs of the same person were not at hand.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid.errors import DeidError, NoFile
from deid.gate.face import Face, embed_face
from deid.gate.fallback import SMALLEST_JUDGED
from deid.gate.judges import Embeddings, Judge, Verifier
from deid.imaging.codec import SUFFIXES, decode
from deid.pixels import Pixels
from deid.storage.staging import file_sha256

log = logging.getLogger(__name__)

CERTAINTY = 0.4  # how far from a judge's threshold towards 1 a face must be to be kept
LEAST_JUDGES = 2
SAME = 1e-3  # by which two judges' unit vectors of one face must differ somewhere
ROOM = 0.25  # of a reference's longer side, put around one in which no face was seen

Find = Callable[[Pixels], list[Face]]
"""The faces of a picture, placed."""


@dataclass(frozen=True)
class Chooser:
    """Knows the people of the reference pictures; `keeps` says which faces stay untouched."""

    verifier: Verifier
    people: tuple[Embeddings, ...]
    keep: bool  # whether they are the ones kept, or the only ones changed

    def keeps(self, picture: Pixels, face: Face) -> bool:
        """Whether a placed face of `uint8 [H,W,3]` is to stay as it is; False when in doubt."""
        if face.geometry.hull is None or face.geometry.longer < SMALLEST_JUDGED:
            return False
        try:
            seen = face.original(picture, self.verifier)
            if self.keep:
                return any(self._is(person, seen) for person in self.people)
            return not any(self._may_be(person, seen) for person in self.people)
        except Exception:
            log.debug("face at %s", face.geometry.box, exc_info=True)
            return False

    def _is(self, person: Embeddings, seen: Embeddings) -> bool:
        return all(
            cosine(judge, person, seen) >= keep_limit(judge) for judge in self.verifier.judges
        )

    def _may_be(self, person: Embeddings, seen: Embeddings) -> bool:
        # Written so that a cosine that is not a number may be the person.
        return not all(
            cosine(judge, person, seen) < judge.threshold for judge in self.verifier.judges
        )


def keep_limit(judge: Judge) -> float:
    """The cosine from which on a judge is certain enough to leave a face as it is."""
    called_one_person = judge.limit(elsewhere=True)
    return called_one_person + CERTAINTY * (1.0 - called_one_person)


def cosine(judge: Judge, one: Embeddings, other: Embeddings) -> float:
    """What a judge makes of two faces."""
    return float(one[judge.name][0] @ other[judge.name][0])


def build_chooser(
    keep: str | None, only: str | None, find: Find, verifier: Verifier
) -> Chooser | None:
    """From a picture or a folder of pictures with one face each; None where nothing was chosen."""
    if keep and only:
        raise DeidError("--keep and --only: give one of them, not both")
    place = keep or only
    if not place:
        return None
    if len(verifier.judges) < LEAST_JUDGES:
        raise DeidError(
            f"{place}: people are told apart by {LEAST_JUDGES} judges or more; "
            "give another --recognizer"
        )
    people = tuple(_person(file, find, verifier) for file in reference_files(place))
    _check_apart(verifier, people[0])
    return Chooser(verifier, people, keep=bool(keep))


def reference_files(place: str | None) -> Sequence[Path]:
    """The reference pictures in a folder, or the one; `DeidError` where there is none."""
    if not place:
        return ()
    path = Path(place)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    pictures = [file for file in files if file.is_file() and file.suffix.lower() in SUFFIXES]
    if not pictures:
        raise NoFile(f"{place}: no reference picture; correct the path")
    return pictures


def reference_hashes(place: str | None) -> list[str]:
    """What stands for the reference pictures in a fingerprint."""
    return sorted(_sha256(file) for file in reference_files(place))


def _sha256(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> NoFile:
    return NoFile(f"{file}: not readable ({error.strerror}); correct the path")


def _person(file: Path, find: Find, verifier: Verifier) -> Embeddings:
    try:
        picture = decode(file.read_bytes(), str(file)).pixels
    except OSError as error:
        raise _unreadable(file, error) from None
    except DeidError as error:  # no picture
        raise NoFile(error) from None
    faces = _placed(find(picture))
    if not faces:  # detectors miss a face that fills its picture
        room = round(ROOM * max(picture.shape))
        picture = np.pad(picture, ((room, room), (room, room), (0, 0)), constant_values=127)
        faces = _placed(find(picture))
    if not faces:
        raise NoFile(f"{file}: no face found in it; a reference needs one, give another picture")
    if len(faces) > 1:
        raise NoFile(f"{file}: {len(faces)} faces in it; a reference needs exactly one, crop it")
    if faces[0].geometry.longer < 2 * SMALLEST_JUDGED:
        raise NoFile(f"{file}: its face is too small to know a person by; give a larger one")
    person = embed_face(picture, faces[0].geometry.square, verifier)
    if not all(np.isfinite(vector).all() for vector in person.values()):
        raise NoFile(f"{file}: its face cannot be judged; give another picture")
    return person


def _placed(faces: Sequence[Face]) -> list[Face]:
    return [face for face in faces if face.geometry.hull is not None]


def _check_apart(verifier: Verifier, person: Embeddings) -> None:
    """`DeidError` where two judges are one network, whose second opinion is worth nothing."""
    for one, other in itertools.combinations(verifier.judges, 2):
        left, right = person[one.name], person[other.name]
        if left.shape == right.shape and np.allclose(left, right, atol=SAME):
            raise DeidError(
                f"recognizers {one.name} and {other.name} are the same network, which cannot check "
                "itself; give another --recognizer"
            )
