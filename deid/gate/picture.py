"""One picture, pixels in and bytes out: every face anonymized, judged, and masked if need be.

The steps, each in its own file: find, place, anonymize, compose, encode, recognize, sweep. The
picture is composed anew from its original each time a face escalates to its next level, and
judged as it comes out of the encoder, until every face is either unrecognizable or an opaque mask
and no detector finds another one.
"""

from collections.abc import Callable, Sequence

from deid.gate.components import Components
from deid.gate.compose import compose
from deid.gate.face import Face
from deid.gate.fallback import OPAQUE
from deid.gate.find import Admission
from deid.gate.limits import Deadline, Limits, Unsafe
from deid.gate.recognize import all_pass
from deid.gate.record import FaceRecord
from deid.gate.sweep import sweep
from deid.pixels import Pixels

RoundTrip = Callable[[Pixels], tuple[bytes, Pixels]]
"""An encoder and its decoder: `uint8 [H,W,3]` → the encoded picture, and what is seen in it."""


def deidentify_picture(
    picture: Pixels,
    components: Components,
    method: str,
    seed: Callable[[int], int],
    round_trip: RoundTrip,
    limits: Limits | None = None,
) -> tuple[bytes, list[FaceRecord]]:
    """Anonymize every face of `uint8 [H,W,3]`; pixels away from faces keep their values.

    Returns the encoded bytes that were judged, and what became of each face. `seed(i)` is the seed
    of face i. An exception means that nothing may be written; a face that fails any step is masked
    instead.
    """
    components.check_domain(picture)
    limits = limits or Limits()
    deadline = Deadline(limits)
    admission = Admission(picture, components, method, seed, limits)
    faces = admission.admit(components.detector.detect([picture])[0], "detector")
    finds = 0
    while True:
        if deadline.over:
            mask_all(faces, "out of time")
        composed = compose(picture, faces, components, deadline)
        encoded, final = round_trip(composed)
        if final.shape != picture.shape:
            raise Unsafe("the encoder changed the picture's size")
        if not all_pass(picture, final, faces, components.verifier, deadline):
            continue
        found = (components.sweeper or components.detector).detect([final])[0]
        levels = [face.levels for face in faces]
        unhandled = sweep(picture, final, found, faces, components.verifier)
        if not unhandled and levels == [face.levels for face in faces]:
            return encoded, [face.record() for face in faces]
        finds += bool(unhandled)
        if finds >= limits.sweeps:
            raise Unsafe("faces nobody had handled were found again and again")
        # What appears late is no new person but trouble: it is masked at once.
        faces += admission.admit(found, "sweep", faces, unhandled, opaque=finds > 1)


def mask_all(faces: Sequence[Face], reason: str) -> None:
    """Escalate every face to the mask."""
    for face in faces:
        if face.level != OPAQUE:
            face.escalate(reason, to_mask=True)
