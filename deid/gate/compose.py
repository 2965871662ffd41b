"""The picture with every face on its present level."""

import logging
from collections.abc import Sequence

from deid.gate.anonymize import anonymize, draws_skin
from deid.gate.components import Components
from deid.gate.face import Face, error_line
from deid.gate.fallback import GENERATIVE, base
from deid.gate.limits import Deadline, Unsafe
from deid.imaging.paste import fill, is_filled, paste, paste_face
from deid.pixels import Pixels

log = logging.getLogger(__name__)


def compose(
    picture: Pixels, faces: Sequence[Face], components: Components, deadline: Deadline
) -> Pixels:
    """The picture with every face on its present level; masks last, so that nothing covers them.

    Each crop is taken from the canvas as it is by then: a face that overlaps another one must not
    bring back its neighbor's original pixels. A face that fails is masked.
    """
    canvas = picture.copy()
    for face in faces:
        if face.opaque or face.kept:
            continue
        try:
            if deadline.over:
                raise TimeoutError("out of time")
            _paste_face(canvas, face, components)
        except Unsafe:
            raise
        except Exception as error:
            log.debug("face at %s", face.geometry.box, exc_info=True)
            face.escalate(error_line(error), to_mask=True)
    masked = [face.region(picture.shape) for face in faces if face.opaque]
    for region in masked:
        fill(canvas, region)
    if not all(is_filled(canvas, region) for region in masked):
        raise Unsafe("a mask does not cover its face")
    return canvas


def _paste_face(canvas: Pixels, face: Face, components: Components) -> None:
    new = anonymize(canvas, face, components.anonymizers[face.level], components.placing)
    region = face.region(canvas.shape)
    x0, y0, x1, y1 = region.window
    before = canvas[y0:y1, x0:x1].copy()
    try:
        if draws_skin(face):
            paste_face(canvas, new, face.geometry.square, region)
        else:
            drawn = base(face.level) in GENERATIVE
            around = drawn and face.geometry.is_portrait
            match = drawn and components.relit
            paste(canvas, new, face.geometry.square, region, match, around)
    except BaseException:
        canvas[y0:y1, x0:x1] = before
        raise
