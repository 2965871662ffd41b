"""What a file tells besides its picture: gone by default, kept by name, and nothing rides along."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms, IptcImagePlugin, TiffImagePlugin

from deid.errors import DeidError
from deid.imaging.codec import decode, encode
from deid.imaging.metadata import NOTHING, Keep, parse_keep
from deid.imaging.profile import kept_profile, rewritten
from tests.pictures import (
    PLANTED,
    SECRET,
    iptc,
    planted_exif,
    planted_icc,
    planted_xmp,
    png_chunks,
    png_with,
    rgb,
    saved,
    sixteen_file,
    smooth,
    swapped_icc,
)

ALL = parse_keep(["icc,exif,xmp:dc:rights,iptc:CopyrightNotice"])


def written(data: bytes, keep: Keep = NOTHING) -> bytes:
    decoded = decode(data, "a", keep, first_frame_only=True)
    return encode(decoded.pixels, decoded.alpha, decoded.form)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("kind", PLANTED)
def test_no_planted_secret_survives_in_any_format(kind: str) -> None:
    data = PLANTED[kind]()
    assert SECRET in data, "the plant failed"
    out = written(data)
    for mark in (SECRET, b"Exif\0\0", b"ns.adobe.com", b"8BIM", b"MPF\0", b"2026:01:02", b"acsp"):
        assert mark not in out, mark
    image = opened(out)
    assert not set(image.getexif()) - set(range(254, 340)), "only how a TIFF stores its pixels"
    assert not image.getexif().get_ifd(0x8825)
    assert not image.getexif().get_ifd(0x8769)
    assert not {"icc_profile", "xmp", "comment", "photoshop", "XML:com.adobe.xmp"} & set(image.info)
    assert not image.info.get("exif")
    assert not image.info.get("thumbnails")


def jpeg_segments(data: bytes) -> tuple[list[int], bytes]:
    """Markers before the scan by our own walk, and what lies behind the end of the picture."""
    markers, at = [], 2
    while data[at + 1] != 0xDA:
        assert data[at] == 0xFF
        markers.append(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return markers, data[data.index(b"\xff\xd9", at) + 2 :]


def test_by_our_own_walk_only_the_picture_is_left() -> None:
    markers, behind = jpeg_segments(written(PLANTED["jpg"]()))
    allowed = {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables of quantization, frame, Huffman tables
    assert set(markers) <= allowed
    assert behind == b""
    names = [name for name, _ in png_chunks(written(PLANTED["png"]()))]
    assert set(names) == {b"IHDR", b"IDAT", b"IEND"}
    webp = written(PLANTED["webp"]())
    assert webp[12:16] == b"VP8 "
    assert len(webp) == 8 + int.from_bytes(webp[4:8], "little")
    gif = written(PLANTED["gif"]())
    assert b"\x21\xff" not in gif[:800]
    assert gif.endswith(b"\x00;")
    for box in (b"Exif", b"mime", b"thmb", b"auxl", b"prof"):
        assert box not in written(PLANTED["heic"]())
        assert box not in written(PLANTED["avif"]())


def test_a_second_reader_finds_nothing_in_a_tiff() -> None:
    import tifffile

    before = tifffile.TiffFile(io.BytesIO(PLANTED["tiff"]()))
    assert 65000 in before.pages[0].tags  # type: ignore[union-attr]
    after = tifffile.TiffFile(io.BytesIO(written(PLANTED["tiff"]())))
    assert len(after.pages) == 1
    structural = {256, 257, 258, 259, 262, 273, 277, 278, 279, 282, 283, 284, 296, 317, 339}
    assert {tag.code for tag in after.pages[0].tags} <= structural  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["jpg", "png", "tiff", "webp", "heic", "avif"])
def test_what_was_asked_for_by_name_is_kept_and_nothing_besides(kind: str) -> None:
    keep = parse_keep(["exif:DateTimeOriginal, exif:ExposureTime", "xmp:dc:rights"])
    data = PLANTED[kind]()
    out = written(data, keep)
    assert SECRET not in out
    exif = opened(out).getexif()
    assert exif.get_ifd(0x8769).get(0x9003) == "2026:01:02 03:04:05"
    assert float(exif.get_ifd(0x8769)[0x829A]) == pytest.approx(0.01)
    assert 0x927C not in exif.get_ifd(0x8769)
    assert not exif.get_ifd(0x8825)
    assert 0x0132 not in exif, "DateTime was not asked for"
    packet = opened(out).info["xmp"]
    assert b"By all &amp; none" in packet
    assert np.array_equal(decode(out, "b").pixels, decode(written(data), "b").pixels)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_wildcard_never_keeps_what_is_dangerous(kind: str) -> None:
    out = written(PLANTED[kind](), parse_keep(["exif"]))
    for part in (b"-maker", b"-gps", b"-thumbnail", b"-description", b"-person", b"-by-line"):
        assert SECRET + part not in out
    image = opened(out)
    assert not image.getexif().get_ifd(0x8825)
    assert 0x927C not in image.getexif().get_ifd(0x8769)
    assert image.getexif().get(0x0112, 1) == 1
    if image.info.get("exif"):
        assert b"\xff\xd8" not in image.info["exif"], "a thumbnail"


def test_a_place_is_kept_only_by_its_own_name() -> None:
    exif = opened(written(PLANTED["jpg"](), parse_keep(["exif:GPSLatitude"]))).getexif()
    assert [float(part) for part in exif.get_ifd(0x8825)[2]] == [52.0, 31.0, 12.5]
    assert set(exif.get_ifd(0x8825)) == {2}


def test_iptc_is_kept_by_name_in_jpeg_and_tiff() -> None:
    keep = parse_keep(["iptc:CopyrightNotice"])
    out = written(PLANTED["jpg"](), keep)
    assert SECRET not in out
    assert IptcImagePlugin.getiptcinfo(opened(out)) == {(2, 116): b"All rights"}  # type: ignore[arg-type]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[33723] = 7
    tags[33723] = iptc(80, SECRET) + iptc(116, b"All rights")
    out = written(rgb("TIFF", tiffinfo=tags), keep)
    assert SECRET not in out
    assert opened(out).tag_v2[33723] == iptc(116, b"All rights")  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF", "AVIF"])
def test_a_kept_profile_means_that_the_colors_are_not_converted(kind: str) -> None:
    profile, keep = swapped_icc(), parse_keep(["icc"])
    data = rgb(kind, icc_profile=profile)
    kept = written(data, keep)
    assert opened(kept).info["icc_profile"] == rewritten(profile, gray=False)
    same = np.abs(decode(kept, "a", keep).pixels.astype(int) - smooth()).mean()
    assert same < 3
    converted = decode(data, "a").pixels.astype(int)
    assert np.abs(converted - smooth()).mean() > 8, "the profile does something"
    dropped = written(data)
    assert "icc_profile" not in opened(dropped).info
    assert np.abs(decode(dropped, "b").pixels.astype(int) - converted).mean() < 3
    # Whoever reads the kept one by its profile sees what whoever reads the converted one sees.
    assert np.abs(decode(kept, "c").pixels.astype(int) - converted).mean() < 6


def transformed(profile: bytes) -> np.ndarray:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(Image.fromarray(smooth()), source, srgb)
    return np.asarray(made)


def test_a_kept_profile_holds_colors_and_nothing_else() -> None:
    profile = swapped_icc()
    kept = rewritten(profile, gray=False)
    assert np.array_equal(transformed(kept), transformed(profile))
    assert rewritten(kept, gray=False) == kept
    count, end = struct.unpack_from(">I", profile, 128)[0], len(profile)
    # A private tag of 0.9 MB, with its entry put into the table.
    shifted = b"".join(
        profile[132 + 12 * i : 136 + 12 * i]
        + struct.pack(">I", struct.unpack_from(">I", profile, 136 + 12 * i)[0] + 12)
        + profile[140 + 12 * i : 144 + 12 * i]
        for i in range(count)
    )
    private = struct.pack(">4sII", b"mypr", end + 12, 900_000)
    body = profile[132 + 12 * count :] + SECRET + bytes(900_000 - len(SECRET))
    stuffed = profile[4:128] + struct.pack(">I", count + 1) + shifted + private + body
    stuffed = struct.pack(">I", len(stuffed) + 4) + stuffed
    out = written(rgb("PNG", icc_profile=stuffed), parse_keep(["icc"]))
    assert SECRET not in opened(out).info["icc_profile"]
    assert len(opened(out).info["icc_profile"]) < 1000
    assert np.array_equal(transformed(opened(out).info["icc_profile"]), transformed(profile))


def test_a_curve_that_could_hold_anything_is_not_kept() -> None:
    profile = bytearray(swapped_icc())
    table = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(20)}
    curve = b"curv" + bytes(4) + struct.pack(">I", 400) + bytes(range(256)) * 4
    entry = table.get(b"rTRC", -1)
    assert entry > 0
    struct.pack_into(">II", profile, entry + 4, len(profile), len(curve))
    whole = bytearray(profile + curve)
    struct.pack_into(">I", whole, 0, len(whole))
    assert kept_profile(bytes(whole), gray=False) == b""
    assert kept_profile(bytes(whole)[:200], gray=False) == b""
    assert kept_profile(swapped_icc(), gray=True) == b""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_resolution_is_kept_where_it_was_asked_for(kind: str) -> None:
    data = rgb(kind, dpi=(300, 300))
    kept = opened(written(data, parse_keep(["dpi"]))).info["dpi"]
    assert tuple(round(float(value)) for value in kept) == (300, 300)
    assert round(float(opened(written(data)).info.get("dpi", (0, 0))[0])) != 300


def test_a_profile_of_other_channels_is_not_kept() -> None:
    cmyk = Image.fromarray(smooth()).convert("CMYK")
    out = written(saved(cmyk, "JPEG", icc_profile=planted_icc()), parse_keep(["icc"]))
    assert "icc_profile" in opened(out).info or SECRET not in out
    gray = saved(Image.fromarray(smooth()[..., 0]), "PNG", icc_profile=planted_icc())
    assert "icc_profile" not in opened(written(gray, parse_keep(["icc"]))).info


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_and_metadata_go_together(kind: str) -> None:
    if kind == "PNG":
        data = png_with(sixteen_file("PNG", 3), planted_exif(), planted_xmp(), swapped_icc())
    else:
        import tifffile

        out = io.BytesIO()
        samples = smooth().astype(np.uint16) * 256 + 7
        tags = [(700, 7, len(planted_xmp()), planted_xmp(), True)]
        tifffile.imwrite(out, samples, photometric="rgb", iccprofile=swapped_icc(), extratags=tags)
        data = out.getvalue()
    kept = decode(data, "a", ALL)
    assert kept.form.samples is not None
    out_bytes = encode(kept.pixels, kept.alpha, kept.form)
    assert SECRET not in out_bytes
    image = opened(out_bytes)
    assert image.info["icc_profile"] == rewritten(swapped_icc(), gray=False)
    assert b"By all" in image.info["xmp"]
    again = decode(out_bytes, "b", ALL)
    assert again.form.samples is not None
    assert np.array_equal(again.form.samples, kept.form.samples)
    dropped = decode(data, "a")
    assert dropped.form.samples is None, "only 8 bits can be converted"
    assert "16 bits became 8" in dropped.notes


def test_a_format_that_holds_no_metadata_says_so() -> None:
    gif = saved(Image.fromarray(smooth()).quantize(64), "GIF")
    assert decode(gif, "a", ALL).notes == ()
    data = PLANTED["png"]()
    assert decode(data, "a", ALL).form.kept.exif
    webp = decode(PLANTED["webp"](), "a", parse_keep(["iptc:City"]), first_frame_only=True)
    assert not webp.form.kept.iptc


DANGEROUS = [
    "MakerNote",
    "Orientation",
    "JpegIFOffset",
    "Thumbnail",
    "GPSInfo",
    "SubIFDs",
    "XMLPacket",
]
UNKNOWN = [
    "everything",
    "gps",
    "exif:Nonsense",
    "xmp",
    "xmp:evil:x",
    "iptc",
    "iptc:Preview",
    "icc:x",
]


@pytest.mark.parametrize(
    "name", [*UNKNOWN, *(f"exif:{tag}" for tag in DANGEROUS), "xmp:xmp:Thumbnails"]
)
def test_an_unknown_or_dangerous_name_is_refused(name: str) -> None:
    with pytest.raises(DeidError, match="keep metadata"):
        parse_keep([name])


def test_mangled_metadata_counts_as_none() -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'
    for block in (b"<x", bomb, b"\xff" * 100):
        decoded = decode(rgb("WEBP", xmp=block), "a", ALL)
        assert not decoded.form.kept.xmp
    assert not decode(rgb("JPEG", exif=b"Exif\0\0MM\0*\xff\xff"), "a", ALL).form.kept.exif


def test_nothing_heavy_is_loaded_before_a_file_needs_it() -> None:
    loaded = "[name in sys.modules for name in ('pillow_heif', 'tifffile')]"
    code = f"import sys, deid.imaging.codec; print(any({loaded}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_plants_are_what_cameras_write() -> None:
    exif = Image.Exif()
    exif.load(planted_exif())
    assert exif.get_ifd(0x8769)[0x927C].startswith(SECRET)
    tiff = planted_exif().removeprefix(b"Exif\0\0")
    (first,) = struct.unpack_from(">I", tiff, 4)
    (entries,) = struct.unpack_from(">H", tiff, first)
    thumbnails = TiffImagePlugin.ImageFileDirectory_v2(tiff[:8])
    block = io.BytesIO(tiff)
    block.seek(*struct.unpack_from(">I", tiff, first + 2 + 12 * entries))
    thumbnails.load(block)
    start, length = int(thumbnails[0x0201]), int(thumbnails[0x0202])
    with Image.open(io.BytesIO(tiff[start : start + length])) as thumbnail:
        assert thumbnail.size == (16, 16)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(planted_icc()))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
