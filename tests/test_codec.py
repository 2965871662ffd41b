"""Every format in, the same format out: what must hold of pixels, sizes and refusals."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageSequence

from deid.errors import DeidError
from deid.imaging.codec import MAX_PIXELS, Decoded, TooLarge, decode, encode
from deid.pixels import Pixels
from tests.pictures import (
    PLANTED,
    palette_image,
    png_chunks,
    rgb,
    saved,
    sixteen,
    sixteen_file,
    smooth,
)

FACE = np.s_[20:40, 30:60]


def changed(decoded: Decoded, value: int = 96) -> Pixels:
    """The picture with a face painted over."""
    pixels = decoded.pixels.copy()
    pixels[FACE] = value
    return pixels


def through(data: bytes) -> tuple[Decoded, bytes, Decoded]:
    """A file decoded, written with a painted face, and read again."""
    decoded = decode(data, "a")
    out = encode(changed(decoded), decoded.alpha, decoded.form)
    return decoded, out, decode(out, "b")


def outside(array: np.ndarray) -> np.ndarray:
    """The values away from the face, in a row."""
    keep = np.ones(array.shape[:2], bool)
    keep[FACE] = False
    return array[keep]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def gray() -> Image.Image:
    return Image.fromarray(smooth()[..., 0])


def with_alpha(image: Image.Image) -> Image.Image:
    alpha = np.full((60, 80), 255, np.uint8)
    alpha[:10] = np.arange(80, dtype=np.uint8)  # clear at the left, then ever less
    image.putalpha(Image.fromarray(alpha))
    return image


LOSSLESS = {
    "png rgb": lambda: rgb("PNG"),
    "png rgba": lambda: saved(with_alpha(Image.fromarray(smooth())), "PNG"),
    "png gray": lambda: saved(gray(), "PNG"),
    "png gray alpha": lambda: saved(with_alpha(gray()), "PNG"),
    "png palette": lambda: saved(palette_image(), "PNG"),
    "png palette clear": lambda: saved(palette_image(transparent=True), "PNG", transparency=0),
    "png palette alpha": lambda: saved(palette_image(), "PNG", transparency=bytes(range(50, 250))),
    "tiff rgb": lambda: rgb("TIFF"),
    "tiff lzw": lambda: rgb("TIFF", compression="tiff_lzw"),
    "tiff rgba": lambda: saved(with_alpha(Image.fromarray(smooth())), "TIFF"),
    "tiff gray": lambda: saved(gray(), "TIFF"),
    "tiff palette": lambda: saved(palette_image(), "TIFF"),
    "bmp rgb": lambda: rgb("BMP"),
    "bmp palette": lambda: saved(palette_image(), "BMP"),
    "bmp gray": lambda: saved(gray(), "BMP"),
    "webp lossless": lambda: rgb("WEBP", lossless=True),
    "webp lossless, profile first": lambda: rgb(
        "WEBP",
        lossless=True,
        icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ),
    "gif": lambda: saved(palette_image(), "GIF"),
    "gif of 256 colors": lambda: saved(palette_image(256), "GIF"),
    "gif clear": lambda: saved(palette_image(transparent=True), "GIF", transparency=0),
    "gif gray": lambda: saved(gray(), "GIF"),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_lossless_picture_keeps_mode_and_every_pixel_outside_the_face(kind: str) -> None:
    data = LOSSLESS[kind]()
    before, out, after = through(data)
    first, second = opened(data), opened(out)
    assert second.format == first.format
    # GIF has no gray of its own: Pillow calls a gray palette L.
    assert {"L": "P"}.get(second.mode, second.mode) == {"L": "P"}.get(first.mode, first.mode)
    assert np.array_equal(outside(after.pixels), outside(before.pixels))
    assert (after.alpha is None) == (before.alpha is None)
    if before.alpha is not None and after.alpha is not None:
        assert np.array_equal(outside(after.alpha), outside(before.alpha))
    reference = np.asarray(first.convert("RGBA"))
    seen = reference[..., 3] > 0
    assert np.array_equal(
        outside(before.pixels)[outside(seen)], outside(reference)[outside(seen), :3]
    )
    assert np.abs(after.pixels[FACE].astype(int) - 96).max() <= (40 if "256" in kind else 0)


@pytest.mark.parametrize("kind", ["png palette", "gif", "gif of 256 colors", "gif clear"])
def test_a_face_of_many_new_colors_is_near_in_a_palette(kind: str) -> None:
    decoded = decode(LOSSLESS[kind](), "a")
    pixels = decoded.pixels.copy()
    pixels[FACE] = smooth(seed=3)[FACE]
    after = decode(encode(pixels, decoded.alpha, decoded.form), "b")
    assert np.array_equal(outside(after.pixels), outside(decoded.pixels))
    error = np.abs(after.pixels[FACE].astype(int) - pixels[FACE])
    assert error.mean() < 25


def test_colors_that_only_the_face_had_leave_the_palette() -> None:
    image = palette_image(100)
    index = np.asarray(image).copy()
    index[FACE] = 101
    special = Image.fromarray(index)
    special.putpalette((image.getpalette() or [])[:300] + [0] * 3 + [1, 254, 3])
    data = saved(special, "PNG", optimize=False)
    _, out, _ = through(data)
    palette = dict(png_chunks(out))[b"PLTE"]
    assert bytes([1, 254, 3]) in dict(png_chunks(data))[b"PLTE"]
    assert bytes([1, 254, 3]) not in palette


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_stay_sixteen_where_no_face_was(kind: str, channels: int) -> None:
    before, out, after = through(sixteen_file(kind, channels))
    assert after.form.samples is not None
    assert np.array_equal(outside(after.form.samples), outside(sixteen(channels)))
    colors = after.form.samples[FACE].reshape(20, 30, -1)[..., :3]
    assert (colors == 96 * 257).all()
    assert np.array_equal(before.pixels, (sixteen(3) >> 8) if channels > 1 else before.pixels)
    assert before.notes == ()
    assert opened(out).format == kind


def test_a_pixel_inside_a_changed_face_does_not_keep_its_low_bits() -> None:
    decoded = decode(sixteen_file("PNG", 3), "a")
    pixels = changed(decoded)
    pixels[25:32, 40:46] = decoded.pixels[25:32, 40:46]  # as if they were the same by chance
    after = decode(encode(pixels, None, decoded.form), "b")
    assert after.form.samples is not None
    assert np.array_equal(after.form.samples[25:32, 40:46] % 257, np.zeros((7, 6, 3)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG 16", "TIFF", "WEBP", "AVIF"])
def test_orientation_is_baked_in(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose, by the Exif standard
    upright = Image.fromarray(smooth())
    if orientation > 1:
        upright = upright.transpose(Image.Transpose(turn[orientation]))
    if kind == "PNG 16":
        data = sixteen_file("PNG", 3)
        block = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = b"eXIf" + block
        data = (
            data[:33]
            + struct.pack(">I", len(block))
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
            + data[33:]
        )
    else:
        data = rgb(kind, exif=exif)
    decoded = decode(data, "a")
    out = encode(decoded.pixels, decoded.alpha, decoded.form)
    assert opened(out).getexif().get(0x0112, 1) == 1
    again = decode(out, "b").pixels
    assert again.shape == np.asarray(upright).shape
    assert np.abs(again.astype(int) - np.asarray(upright)).mean() < 6
    if kind == "PNG 16":
        assert decoded.form.samples is not None


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "HEIF", "AVIF"])
def test_a_lossy_picture_comes_back_nearly_equal(kind: str) -> None:
    decoded, out, after = through(rgb(kind))
    assert opened(out).format == kind
    error = np.abs(outside(after.pixels).astype(int) - outside(decoded.pixels))
    assert error.mean() < 2


@pytest.mark.parametrize("kind", ["WEBP", "HEIF", "AVIF"])
def test_a_lossy_picture_keeps_its_alpha(kind: str) -> None:
    decoded, _, after = through(saved(with_alpha(Image.fromarray(smooth())), kind))
    assert decoded.alpha is not None
    assert after.alpha is not None
    assert np.abs(after.alpha.astype(int) - decoded.alpha).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb_and_that_is_said(kind: str) -> None:
    data = saved(Image.fromarray(smooth()).convert("CMYK"), kind)
    decoded, out, _ = through(data)
    assert decoded.notes == ("CMYK became RGB",)
    assert opened(out).mode == "RGB"
    assert np.abs(decoded.pixels.astype(int) - smooth()).mean() < 4


def test_one_bit_becomes_gray_and_that_is_said() -> None:
    data = saved(Image.fromarray(smooth()[..., 0] > 128), "PNG")
    before, out, after = through(data)
    assert before.notes == ("1 bit became 8 bits of gray",)
    assert opened(out).mode == "L"
    assert np.array_equal(outside(after.pixels), outside(before.pixels))


def test_a_profile_that_is_broken_or_of_other_channels_changes_nothing() -> None:
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert np.array_equal(decode(rgb("PNG", icc_profile=other), "a").pixels, smooth())
    assert np.array_equal(decode(rgb("PNG", icc_profile=b"broken"), "a").pixels, smooth())


# ---- further frames


def film(kind: str, count: int = 3) -> bytes:
    frames = [Image.fromarray(smooth(seed=seed)) for seed in range(count)]
    if kind == "GIF":
        frames = [frame.quantize(64) for frame in frames]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "HEIF", "AVIF"])
def test_only_the_first_frame_leaves_and_the_others_are_counted(kind: str) -> None:
    data = film(kind)
    assert len(list(ImageSequence.Iterator(opened(data)))) == 3, "the plant failed"
    if kind != "MPO":  # a camera's JPEG with a gain map or a depth image is one picture
        with pytest.raises(DeidError, match=r"3 frames or pages; .* --first-frame-only"):
            decode(data, "a")
    decoded = decode(data, "a", first_frame_only=True)
    out = encode(decoded.pixels, decoded.alpha, decoded.form)
    after = decode(out, "b")
    assert decoded.notes == ("2 further frames left out",)
    assert after.notes == ()
    assert getattr(opened(out), "n_frames", 1) == 1
    assert np.abs(outside(decoded.pixels).astype(int) - outside(smooth())).mean() < 8


# ---- what is refused


def bits_of_png(width: int, height: int, *chunks: bytes, body: bytes = b"\0" * 100) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    extra = b"".join(chunk(part[:4], part[4:]) for part in chunks)
    data = chunk(b"IDAT", zlib.compress(body, 9))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def tiff_of(fields: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", *field) for field in fields)
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(fields))
        + entries
        + struct.pack("<I", following)
        + b"\0" * 64
    )


def sized_tiff(width: int, height: int) -> list[tuple[int, int, int, int]]:
    plain = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1)]
    return [*plain, (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (279, 4, 1, 64)]


def sized_jpeg(width: int, height: int) -> bytes:
    data = bytearray(rgb("JPEG"))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def sized_boxes(kind: str, side: int) -> bytes:
    """HEIC or AVIF whose ispe property states another size."""
    data = bytearray(rgb(kind))
    at = data.index(b"ispe") + 8
    struct.pack_into(">II", data, at, side, side)
    return bytes(data)


REFUSED = {
    "no bytes": lambda: b"",
    "one byte": lambda: b"\xff",
    "text": lambda: b"hello, I am a holiday picture",
    "png of 100,000 squared": lambda: bits_of_png(100_000, 100_000),
    "png of 2^31": lambda: bits_of_png(2**31 - 1, 2**31 - 1),
    "png too tall": lambda: bits_of_png(10, 50_000),
    "png whose data is a bomb": lambda: bits_of_png(30_000, 30_000, body=bytes(30_000_000)),
    "png with too much text": lambda: bits_of_png(
        4, 4, b"zTXta\0\0" + zlib.compress(bytes(80_000_000), 9)
    ),
    "png with too little data": lambda: bits_of_png(500, 500),
    "gif of 65,535 squared": lambda: (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHBB", 0, 0, 65535, 65535, 0, 2)
        + b"\x01\x00\x00;"
    ),
    "tiff of 100,000 squared": lambda: tiff_of(sized_tiff(100_000, 100_000)),
    "tiff with absurd counts": lambda: tiff_of(
        [(256, 4, 2**32 - 1, 8), (257, 4, 2**32 - 1, 8), (273, 4, 2**32 - 1, 8)]
    ),
    "tiff of 65,535 entries": lambda: b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(9000),
    "tiff that leads to itself": lambda: tiff_of(sized_tiff(0, 0), following=8),
    "bmp of 2^31": lambda: (
        rgb("BMP")[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + rgb("BMP")[26:]
    ),
    "jpeg of 65,500 squared": lambda: sized_jpeg(65_500, 65_500),
    "heic of 100,000 squared": lambda: sized_boxes("HEIF", 100_000),
    "avif of 100,000 squared": lambda: sized_boxes("AVIF", 100_000),
}
for _kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF"):
    REFUSED[f"half a {_kind}"] = lambda kind=_kind: (lambda d: d[: len(d) // 2])(
        saved(palette_image(), "GIF") if kind == "GIF" else rgb(kind)
    )


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bomb_or_a_torso_is_refused_in_one_line_at_once(kind: str) -> None:
    data = REFUSED[kind]()
    start = time.process_time()
    with pytest.raises(DeidError, match="holiday") as refused:
        decode(data, "holiday.jpg")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250
    assert time.process_time() - start < 5


def test_a_chain_of_directories_without_end_is_cut_short() -> None:
    good = rgb("TIFF")
    (at,) = struct.unpack_from("<I", good, 4)
    (entries,) = struct.unpack_from("<H", good, at)
    end = at + 2 + 12 * entries
    looped = good[:end] + struct.pack("<I", at) + good[end + 4 :]
    assert decode(looped, "a").notes == ()
    tail = b"".join(struct.pack("<HI", 0, len(good) + 6 * (i + 1)) for i in range(5000))
    long = good[:end] + struct.pack("<I", len(good)) + good[end + 4 :] + tail
    notes = decode(long, "a", first_frame_only=True).notes
    assert notes == ("at least 999 further frames left out",)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PPM", "RGB"), ("PPM", "L"), ("TGA", "RGBA"), ("TGA", "L"), ("TGA", "P"), ("JPEG2000", "LA")],
)
def test_rarer_formats_come_back_to_the_bit(kind: str, mode: str) -> None:
    image = Image.fromarray(smooth())
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(smooth()[..., 0]))
    decoded, out, after = through(saved(image.convert(mode), kind))
    assert opened(out).format == kind
    assert np.array_equal(outside(after.pixels), outside(decoded.pixels))
    assert (after.alpha is None) == (mode not in ("RGBA", "LA"))


def test_messages_name_sizes_and_no_objects() -> None:
    with pytest.raises(DeidError, match=r"^a: 10,000,000,000 pixels are too many") as refused:
        decode(bits_of_png(100_000, 100_000), "a")
    assert f"{MAX_PIXELS:,}" in str(refused.value)
    for data in (b"hello", b"", rgb("TIFF")[:9]):
        with pytest.raises(DeidError) as refused:
            decode(data, "a")
        assert not {"<", ">", "BytesIO"} & set(str(refused.value).split())
        assert "0x" not in str(refused.value)


def test_a_heic_that_only_exif_calls_turned_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    boxed = rgb("HEIF", exif=exif.tobytes())
    assert boxed.count(b"irot") == 1
    only_exif = decode(boxed.replace(b"irot", b"free"), "a").pixels
    assert np.array_equal(only_exif, decode(boxed, "b").pixels)
    assert only_exif.shape == (80, 60, 3)


def test_the_content_decides_and_not_the_name() -> None:
    decoded = decode(rgb("PNG"), "holiday.jpg")
    assert opened(encode(decoded.pixels, None, decoded.form)).format == "PNG"


def test_the_largest_picture_that_is_let_in_is_small_enough_for_memory() -> None:
    assert MAX_PIXELS * 3 < 2**28


def test_every_planted_kind_is_a_picture() -> None:
    for name, make in PLANTED.items():
        assert decode(make(), name, first_frame_only=True).pixels.shape == (60, 80, 3)


def test_a_picture_of_too_many_pixels_is_never_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 32)).save(out, "PNG")
    monkeypatch.setattr("deid.imaging.codec.read._read", None)
    with pytest.raises(TooLarge, match=r"64 x 32 pixels are too many \(at most 2,047"):
        decode(out.getvalue(), "a.png", most=2047)
