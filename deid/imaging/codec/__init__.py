"""Bytes to pixels and back, with nothing but the picture in between.

Decoding bakes in the orientation and the color profile and forgets everything else; encoding
starts from a bare array, so no metadata, thumbnail or extra frame of the original can pass unless
it was asked for by name (`deid.imaging.metadata`).
"""

from deid.imaging.codec.form import (
    DEFAULT_QUALITY,
    LOSSLESS,
    MAX_PIXELS,
    MAX_SIDE,
    Decoded,
    Form,
)
from deid.imaging.codec.quality import jpeg_quality
from deid.imaging.codec.read import TooLarge, decode
from deid.imaging.codec.write import encode
from deid.imaging.formats import FORMAT_OF, SUFFIXES

__all__ = [
    "DEFAULT_QUALITY",
    "FORMAT_OF",
    "LOSSLESS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "SUFFIXES",
    "Decoded",
    "Form",
    "TooLarge",
    "decode",
    "encode",
    "jpeg_quality",
]
