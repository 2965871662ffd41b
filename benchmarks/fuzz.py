"""Mangled files of every format through `deid run --method mask`: what must hold, holds.

    python -m benchmarks.fuzz --files 5000

Seeded: the same numbers give the same files. Prints one line of figures and exits with 1 if a
picture broke a promise. The makers of files are what tests/test_fuzz.py uses too.
"""

import argparse
import functools
import hashlib
import io
import os
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".avif")
ODD_NAMES = (
    "with space", "-rf", "ünï-çødé", "人々", "🙂", "a\nb", "'quoted\"", "%2e%2e%2f", "..", "...",
    "con", "a" * 200, "tab\there", "semi;colon&and", "$HOME", "*", "trailing.", "CAPS",
)  # fmt: skip


# ---- whole files to begin with


@functools.cache
def whole_files() -> dict[str, tuple[str, bytes]]:
    """A name for each kind of file, its usual suffix and its bytes; one has two faces in it."""
    scene = Image.open(ROOT / "data/samples/pair.png").convert("RGB").resize((160, 120))
    gray = scene.convert("L")
    palette = scene.quantize(100)
    clear = scene.copy()
    clear.putalpha(gray)
    files: dict[str, tuple[str, bytes]] = {}

    def add(name: str, suffix: str, image: Image.Image, kind: str, **options: Any) -> None:
        out = io.BytesIO()
        # Copies, because Pillow leaves the last encoder's settings on what it saved.
        if further := options.pop("further", ()):
            options |= {"save_all": True, "append_images": [frame.copy() for frame in further]}
        image.copy().save(out, kind, **options)
        files[name] = suffix, out.getvalue()

    from pillow_heif import register_heif_opener

    register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "camera"
    exif.get_ifd(0x8825)[1] = "N"
    more = {"further": (scene.rotate(90), scene)}
    for name, options in {
        "jpeg": {}, "jpeg exif": {"exif": exif}, "jpeg progressive": {"progressive": True},
        "jpeg 411": {"subsampling": 2, "quality": 50}, "jpeg comment": {"comment": b"x" * 500},
    }.items():  # fmt: skip
        add(name, ".jpg", scene, "JPEG", **options)
    add("jpeg cmyk", ".jpg", scene.convert("CMYK"), "JPEG")
    add("jpeg gray", ".jpg", gray, "JPEG")
    add("mpo", ".jpg", scene, "MPO", **more)
    for name, image in {"rgb": scene, "gray": gray, "rgba": clear, "palette": palette}.items():
        add(f"png {name}", ".png", image, "PNG")
        add(f"tiff {name}", ".tiff", image, "TIFF")
    add("png one bit", ".png", gray.convert("1"), "PNG")
    add("apng", ".png", scene, "PNG", **more)
    add("png exif", ".png", scene, "PNG", exif=exif)
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    add("png 16", ".png", deep, "PNG")
    add("tiff 16", ".tiff", deep, "TIFF")
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        add(f"tiff {packing}", ".tif", scene, "TIFF", compression=packing)
    add("tiff one bit", ".tif", gray.convert("1"), "TIFF", compression="group4")
    add("tiff pages", ".tiff", scene, "TIFF", **more)
    add("bigtiff", ".tiff", scene, "TIFF", big_tiff=True)
    add("webp", ".webp", scene, "WEBP", exif=exif)
    add("webp lossless", ".webp", clear, "WEBP", lossless=True)
    add("webp film", ".webp", scene, "WEBP", **more)
    add("bmp", ".bmp", scene, "BMP")
    add("bmp palette", ".bmp", palette, "BMP")
    add("gif", ".gif", palette, "GIF")
    add("gif film", ".gif", palette, "GIF", further=[palette.rotate(90)])
    add("heic", ".heic", scene, "HEIF", quality=60, exif=exif)
    add("heic alpha", ".heic", clear, "HEIF", quality=60)
    add("avif", ".avif", scene, "AVIF", speed=10, exif=exif)
    add("avif film", ".avif", scene, "AVIF", speed=10, **more)
    return files


# ---- what is done to them


def _truncate(data: bytearray, rng: Random, other: bytes) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _flip(data: bytearray, rng: Random, other: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 3, 10, 50))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _flip_header(data: bytearray, rng: Random, other: bytes) -> bytes:
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(min(len(data), 400))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(data)


def _large_number(data: bytearray, rng: Random, other: bytes) -> bytes:
    value = rng.choice((0, 0xFFFF, 100_000, 2**31 - 1, 2**31, 2**32 - 1))
    at = rng.randrange(max(1, min(len(data), 600) - 4))
    struct.pack_into(rng.choice("<>") + "I", data, min(at, len(data) - 4), value)
    return bytes(data)


def _cut_out(data: bytearray, rng: Random, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 2, 13, 200, 4000))]
    return bytes(data)


def _repeat(data: bytearray, rng: Random, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    part = data[start : start + rng.choice((4, 64, 1000))]
    data[start:start] = part * rng.choice((1, 5, 100))
    return bytes(data)


def _splice(data: bytearray, rng: Random, other: bytes) -> bytes:
    return bytes(data[: rng.randrange(len(data))]) + other[rng.randrange(len(other)) :]


def _trail(data: bytearray, rng: Random, other: bytes) -> bytes:
    return bytes(data) + (other if rng.random() < 0.5 else rng.randbytes(1000))


def _swamp(data: bytearray, rng: Random, other: bytes) -> bytes:
    start = rng.randrange(len(data))
    data[start : start + rng.choice((4, 100, 2000))] = rng.randbytes(100)
    return bytes(data)


def _untouched(data: bytearray, rng: Random, other: bytes) -> bytes:
    return bytes(data)


MUTATIONS: tuple[Callable[[bytearray, Random, bytes], bytes], ...] = (
    _truncate, _flip, _flip, _flip_header, _large_number, _cut_out, _repeat, _splice, _trail,
    _swamp, _untouched,
)  # fmt: skip


def _png(width: int, height: int, body: bytes, text: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    extra = chunk(b"zTXt", b"a\0\0" + text) if text else b""
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    """Small files that state or unpack to large ones."""
    zeros = zlib.compress(bytes(60_000_000), 9)
    tiff = [(256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (262, 3, 1, 1)]
    tiff += [(273, 4, 1, 8), (277, 3, 1, 1), (279, 4, 1, 64)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in tiff)
    absurd = b"".join(struct.pack("<HHII", tag, 4, 2**32 - 1, 8) for tag in range(256, 300))
    chain = b"".join(struct.pack("<HI", 0, 8 + 6 * (i + 1)) for i in range(20_000))
    screen = struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    frame = b",\0\0\0\0\1\0\1\0\0\2\2\x4c\1\0"
    bitmap = struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 1, 1, 0, 0)
    return {
        "header.png": _png(100_000, 100_000, zlib.compress(bytes(100))),
        "limit.png": _png(8_000, 10_000, zlib.compress(bytes(100))),
        "unpacks.png": _png(1_500, 2_000, zlib.compress(bytes(9_002_000), 9)),
        "more.png": _png(10, 10, zeros),
        "text.png": _png(10, 10, zlib.compress(bytes(310)), text=zeros),
        "screen.gif": b"GIF89a" + screen + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x01\0\0;",
        "frames.gif": b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + frame * 9999,
        "size.tiff": b"II*\0\x08\0\0\0" + struct.pack("<H", len(tiff)) + packed + bytes(80),
        "counts.tiff": b"II*\0\x08\0\0\0" + struct.pack("<H", 44) + absurd + bytes(80),
        "chain.tiff": b"II*\0\x08\0\0\0" + chain,
        "entries.tiff": b"MM\0*\0\0\0\x08\xff\xff" + bytes(70_000),
        "size.bmp": b"BM" + bitmap,
        "empty.jpg": b"",
        "zeros.jpg": bytes(5000),
    }  # fmt: skip


def mutants(count: int, seed: int) -> list[tuple[str, bytes]]:
    """`count` files: a suffix, sometimes a wrong one, and bytes."""
    files, rng = list(whole_files().values()), Random(seed)
    made = []
    for _ in range(count):
        suffix, data = rng.choice(files)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if len(data) > 8:
                data = rng.choice(MUTATIONS)(bytearray(data), rng, rng.choice(files)[1])
        made.append((rng.choice(SUFFIXES) if rng.random() < 0.15 else suffix, data))
    return made


# ---- a folder of them


def plant_folder(folder: Path, outside: Path, count: int, seed: int) -> int:
    """Fill `folder` with `count` mutants, all bombs, odd names and places; returns all entries.

    `outside` gets pictures that links lead to and that must never be read into the output.
    """
    rng, entries = Random(seed), 0
    folder.mkdir(parents=True)
    places = [folder, folder / "a/b", folder.joinpath(*["deep"] * 40), folder / "ünï cødé"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    for number, (suffix, data) in enumerate(mutants(count, seed)):
        name = f"{number:05d}{suffix}"
        if number % 50 == 7:
            name = f"{rng.choice(ODD_NAMES)}{number}{suffix}"
        (rng.choice(places) / name).write_bytes(data)
        entries += 1
    for name, data in bombs().items():
        (folder / f"bomb-{name}").write_bytes(data)
        entries += 1
    entries += _special_entries(folder, outside)
    return entries


def _special_entries(folder: Path, outside: Path) -> int:
    outside.mkdir(parents=True)
    secret = whole_files()["png rgb"][1]
    (outside / "secret.png").write_bytes(secret)
    made = [folder / "link.png", folder / "dangling.jpg", folder / "itself.png"]
    made[0].symlink_to(outside / "secret.png")
    made[1].symlink_to(outside / "nowhere.jpg")
    made[2].symlink_to(made[2])
    made += [folder / "linked-folder", folder / "loop"]  # links are on record, and not followed
    made[-2].symlink_to(outside, target_is_directory=True)
    made[-1].symlink_to(folder, target_is_directory=True)
    raw = os.fsencode(folder) + b"/not-utf8-\xff\xfe.png"
    with open(raw, "wb") as file:
        file.write(secret)
    for name in ("notes.txt", "no-suffix", ".hidden.png", "film.mp4", "raw.dng"):
        made.append(folder / name)
        made[-1].write_bytes(secret)
    locked = folder / "locked.png"
    locked.write_bytes(secret)
    locked.chmod(0)
    pipe = folder / "pipe.png"
    os.mkfifo(pipe)
    (folder / "folder.png").mkdir()
    return len(made) + 3  # and the name that is no UTF-8, the locked file and the pipe


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every regular file under a folder, links not followed."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# ---- the run


@dataclass
class Outcome:
    """What a run over a planted folder showed."""

    entries: int
    counts: dict[str, int]
    seconds: float
    slowest: float
    peak_mb: float
    broken: list[str] = field(default_factory=list)

    def text(self) -> str:
        """One line of figures, and one for each broken promise."""
        counts = ", ".join(f"{count} {word}" for word, count in sorted(self.counts.items()))
        line = (
            f"{self.entries} inputs: {counts}; {self.seconds:.0f} s, slowest picture "
            f"{self.slowest:.1f} s of processor time, peak memory {self.peak_mb:.0f} MB"
        )
        return "\n".join([line, *(f"broken: {what}" for what in self.broken)])


def fuzz_batch(folder: Path, count: int, seed: int, pipeline: Any) -> Outcome:
    """Plant, run, and check every promise; see `Outcome.broken`."""
    from deid.batch import pipeline as pipeline_module
    from deid.batch.run import deidentify_path

    source, outside, out = folder / "in", folder / "outside", folder / "out"
    entries = plant_folder(source, outside, count, seed)
    before = digests(folder)
    slowest = _Slowest(pipeline_module)
    start = time.monotonic()
    with slowest:
        summary = deidentify_path(source, out, pipeline)
    outcome = Outcome(
        entries,
        dict(summary.counts),
        time.monotonic() - start,
        slowest.seconds,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    outcome.broken = list(_broken(outcome, folder, out, before, pipeline))
    return outcome


def _broken(
    outcome: Outcome, folder: Path, out: Path, before: dict[str, str], pipeline: Any
) -> list[str]:
    from deid.batch.run import deidentify_path

    broken = []
    if sum(outcome.counts.values()) != outcome.entries:
        broken.append(f"{outcome.entries} inputs, {sum(outcome.counts.values())} ends")
    if set(outcome.counts) - {"written", "quarantined", "skipped"}:
        broken.append(f"other ends: {sorted(outcome.counts)}")
    after = digests(folder)
    if any(after.get(path) != digest for path, digest in before.items()):
        broken.append("an original is changed")
    beside = [path for path in after if path not in before and not path.startswith(f"{out}/")]
    if beside:
        broken.append(f"written outside the destination: {beside[:3]}")
    pictures = [path for path in after if path.startswith(f"{out}/") and _is_picture(path)]
    if len(pictures) != outcome.counts.get("written", 0):
        broken.append(f"{outcome.counts.get('written', 0)} written, {len(pictures)} found")
    if set(before.values()) & {after[path] for path in pictures}:
        broken.append("an output has an original's very bytes")
    again = dict(deidentify_path(folder / "in", out, pipeline).counts)
    if again.get("done", 0) != outcome.counts.get("written", 0) or "written" in again:
        broken.append(f"a second run: {again}")
    return broken


def _is_picture(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


class _Slowest:
    """Watches `deid.batch.pipeline.decode` and `encode`; the slowest call in processor time."""

    def __init__(self, module: Any) -> None:
        self.module, self.seconds = module, 0.0
        self.plain = {name: getattr(module, name) for name in ("decode", "encode")}

    def __enter__(self) -> None:
        for name, function in self.plain.items():
            setattr(self.module, name, self._watched(function))

    def __exit__(self, *_: object) -> None:
        for name, function in self.plain.items():
            setattr(self.module, name, function)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args)
            finally:
                self.seconds = max(self.seconds, time.thread_time() - start)

        return call


def main() -> None:
    """Fuzz a batch by the embedded world's detector; exit with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    from deid.batch.pipeline import build_pipeline
    from deid.batch.settings import RunSettings
    from deid.params import WorldParams
    from deid.worlds import load_world

    world = load_world(WorldParams(weights=ROOT / "data/mini/weights"))
    pipeline = build_pipeline(
        RunSettings(method="mask", allow_no_face=True, rendered=True), world, None
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz_batch(Path(folder) / "fuzz", args.files, args.seed, pipeline)
    print(outcome.text())
    sys.exit(bool(outcome.broken))


if __name__ == "__main__":
    main()
