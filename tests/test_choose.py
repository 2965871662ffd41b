"""Who is kept and who is changed, by reference pictures; and what a dry run shows and does not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from deid.api import deidentify
from deid.audit.seal import AUDIT_FILES
from deid.batch import project
from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.preview import CHANGED
from deid.batch.run import deidentify_path
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.gate import choose
from deid.gate.choose import Chooser, build_chooser, keep_limit
from deid.gate.face import Face
from deid.gate.fallback import OPAQUE, SMALLEST_JUDGED
from deid.gate.find import find_faces
from deid.gate.geometry import Geometry
from deid.gate.judges import Judge, Verifier
from deid.imaging.align import Square
from deid.pixels import Pixels
from deid.serve import work
from deid.worlds.world import World
from tests.conftest import ROOT
from tests.test_paste import photograph

PAIR = ROOT / "data/samples/pair.png"


def pixels_of(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def mask(world: World) -> Pipeline:
    return build_pipeline(RunSettings(method="mask"), world, None)


@pytest.fixture(scope="module")
def faces(mask: Pipeline) -> list[Face]:
    """The two faces of the pair, left one first."""
    found = find_faces(pixels_of(PAIR), mask.components, "mask")
    assert len(found) == 2
    return sorted(found, key=lambda face: float(face.geometry.box[0]))


@pytest.fixture(scope="module")
def portrait(faces: list[Face], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference picture of the person on the left."""
    middle = round(float(faces[0].geometry.box[2] + faces[1].geometry.box[0]) / 2)
    path = tmp_path_factory.mktemp("people") / "left.png"
    Image.fromarray(pixels_of(PAIR)[:, :middle]).save(path)
    return path


def inside(picture: Pixels, face: Face) -> Pixels:
    x0, y0, x1, y1 = (round(float(value)) for value in face.geometry.box)
    return picture[max(y0, 0) : y1, max(x0, 0) : x1]


@pytest.mark.parametrize("choice", ["keep", "only"])
def test_the_person_of_the_reference_is_kept_or_alone_changed(
    world: World, faces: list[Face], portrait: Path, tmp_path: Path, choice: str
) -> None:
    settings = replace(RunSettings(method="mask"), **{choice: str(portrait.parent)})
    pipeline = build_pipeline(settings, world, None)
    summary = deidentify_path(PAIR, tmp_path, pipeline)
    assert dict(summary.methods) == {"kept": 1, "mask": 1}
    before, after = pixels_of(PAIR), pixels_of(tmp_path / PAIR.name)
    kept, changed = faces if choice == "keep" else faces[::-1]
    assert np.array_equal(inside(after, kept), inside(before, kept))
    assert (inside(after, changed) != inside(before, changed)).any(axis=2).mean() > 0.95
    record = json.loads((tmp_path / ".deid/files" / PAIR.name / "manifest.jsonl").read_text())
    assert sorted(face["verdict"] for face in record["faces"]) == ["kept", "masked"]


def test_who_is_chosen_counts_as_a_setting(mask: Pipeline, portrait: Path, tmp_path: Path) -> None:
    def fingerprint(**choice: str) -> str:
        settings = RunSettings(method="mask", **choice)  # type: ignore[arg-type]
        return replace(mask, settings=settings).fingerprint

    place = tmp_path / "left.png"
    place.write_bytes(portrait.read_bytes())
    prints = {fingerprint(), fingerprint(keep=str(place)), fingerprint(only=str(place))}
    Image.fromarray(pixels_of(portrait)[2:]).save(place)
    assert len({*prints, fingerprint(keep=str(place))}) == 4


@pytest.mark.parametrize("choice", ["keep", "only"])
def test_who_is_chosen_from_python_is_whom_the_references_show_at_each_call(
    faces: list[Face], portrait: Path, tmp_path: Path, choice: str
) -> None:
    def stays() -> list[bool]:
        chosen: Any = {choice: place}
        made = deidentify(PAIR, "mask", world="mini", **chosen).faces
        return [face.verdict == "kept" for face in sorted(made, key=lambda face: face.box)]

    place = tmp_path / "person.png"
    place.write_bytes(portrait.read_bytes())
    assert stays() == ([True, False] if choice == "keep" else [False, True])
    with Image.open(portrait) as left:
        Image.fromarray(pixels_of(PAIR)[:, left.width :]).save(place)
    assert stays() == ([False, True] if choice == "keep" else [True, False])


def test_a_pipeline_is_built_anew_once_a_file_that_it_was_built_from_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(_bundle: object, asked: RunSettings, **_: object) -> SimpleNamespace:
        built.append(asked)
        return SimpleNamespace(settings=asked)

    monkeypatch.setattr(project, "open_pipeline", build)
    monkeypatch.setattr(project, "replace", lambda one, **_: one)
    monkeypatch.setattr(project.Pipelines, "world", None)
    pipelines = project.Pipelines(Any)  # type: ignore[arg-type]
    people, network, judge = (tmp_path / name for name in ("people", "one.onnx", "two.onnx"))
    people.mkdir()
    for number, file in enumerate((people / "a.png", people / "b.png", network, judge, network)):
        file.write_bytes(bytes(number + 1))
        asked = RunSettings(
            keep=str(people), detectors=(f"scrfd={network}",), recognizers=(f"foamliu={judge}",)
        )
        assert pipelines.get(asked) is pipelines.get(asked)
        assert len(built) == number + 1


@pytest.mark.parametrize("asked", ["keep", "detectors", "recognizers"])
def test_where_a_services_references_and_networks_lay_is_told_to_no_client(
    tmp_path: Path, asked: str
) -> None:
    file = tmp_path / "own.png"
    file.write_bytes(b"own")
    spec = {"detectors": f"scrfd={file}", "recognizers": f"foamliu={file}"}
    chosen: Any = {asked: (spec[asked],) if asked in spec else str(file)}
    settings = RunSettings(method="mask", **chosen)
    pipelines = project.Pipelines(project.bundle_at(ROOT, "mini"))
    for there in (True, False):
        if not there:
            file.unlink()
        refused = work._pipeline(work.PictureRequest(b"", settings), pipelines)
        assert refused == work.Refusal("withheld", work.WITHHELD)


def judges(*cosines: float | Callable[[], float]) -> Verifier:
    """Judges to whom every face but the person's is at that cosine from the person."""

    def embed(cosine: float | Callable[[], float]) -> Callable[..., np.ndarray]:
        def seen(faces: Pixels, points: np.ndarray) -> np.ndarray:
            return np.array([[cosine() if callable(cosine) else cosine, 0.0]], np.float32)

        return seen

    named = [Judge(f"judge {n}", 0.3, embed(cosine)) for n, cosine in enumerate(cosines)]
    return Verifier(tuple(named), side=32)


def one_face(side: float = 60.0) -> Face:
    points = np.array([[0.375, 0.47], [0.625, 0.47], [0.5, 0.62], [0.4, 0.75], [0.6, 0.75]]) * side
    box = np.array([0.2, 0.25, 0.8, 0.95]) * side
    return Face(Geometry(box, Square(points), points), 1.0, seed=0, levels=("blur", OPAQUE))


def chooser(keep: bool, *cosines: float | Callable[[], float]) -> Chooser:
    verifier = judges(*cosines)
    person = {judge.name: np.array([[1.0, 0.0]], np.float32) for judge in verifier.judges}
    return Chooser(verifier, (person,), keep)


def fails() -> float:
    raise MemoryError("injected")


PICTURE = np.zeros((100, 100, 3), np.uint8)
CERTAIN = keep_limit(Judge("any", 0.3, fails)) + 0.01  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keep", "cosines", "kept"),
    [
        (True, (CERTAIN, CERTAIN), True),
        (True, (CERTAIN, 0.5), False),
        (True, (0.5, 0.5), False),
        (True, (CERTAIN, float("nan")), False),
        (True, (CERTAIN, fails), False),
        (False, (0.1, 0.1), True),
        (False, (0.1, 0.31), False),
        (False, (0.1, float("nan")), False),
        (False, (0.1, fails), False),
    ],
)
def test_doubt_never_keeps_a_face(
    keep: bool, cosines: tuple[float | Callable[[], float], ...], kept: bool
) -> None:
    choosing = chooser(keep, *cosines)
    assert choosing.keeps(PICTURE, one_face()) is kept
    tiny = one_face(SMALLEST_JUDGED)
    assert not choosing.keeps(PICTURE, tiny)
    nowhere = one_face()
    nowhere.geometry = replace(nowhere.geometry, hull=None)
    assert not choosing.keeps(PICTURE, nowhere)


def test_references_that_do_not_tell_one_person_are_refused(
    tmp_path: Path, mask: Pipeline, portrait: Path
) -> None:
    def find(picture: Pixels) -> list[Face]:
        return find_faces(picture, mask.components, "mask")

    several = mask.components.verifier
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.full((90, 90, 3), 127, np.uint8)).save(tmp_path / "nobody.png")
    for place, said in [
        (PAIR, "2 faces"),
        (tmp_path / "nobody.png", "no face found"),
        (tmp_path / "empty", "no reference picture"),
        (tmp_path / "missing.png", "no reference picture"),
        (tmp_path / "broken.png", "not a whole picture"),
    ]:
        with pytest.raises(DeidError, match=said):
            build_chooser(str(place), None, find, several)
    with pytest.raises(DeidError, match="one of them"):
        build_chooser(str(portrait), str(portrait), find, several)
    alone = replace(several, judges=several.judges[:1])
    with pytest.raises(DeidError, match="--recognizer"):
        build_chooser(str(portrait), None, find, alone)
    twice = replace(alone, judges=(*alone.judges, replace(alone.judges[0], name="copy")))
    with pytest.raises(DeidError, match="same network"):
        build_chooser(str(portrait), None, find, twice)
    locked = tmp_path / "folder.png"
    locked.mkdir()
    with pytest.raises(DeidError, match="no reference picture"):
        build_chooser(str(locked), None, find, several)


PEOPLE = (3, 44, 120)  # of the photographs, side by side


def crowd(assets: Path, path: Path) -> Path:
    """A picture of three people, 900 pixels wide."""
    Image.fromarray(photograph(assets, [220, 250, 200], PEOPLE)).save(path)
    return path


def reference(assets: Path, number: int, path: Path) -> Path:
    """Another copy of somebody's photograph: mirrored, darker, smaller, compressed, no margin."""
    with Image.open(assets / f"photoreal/{number:03d}.jpg") as image:
        small = ImageOps.mirror(image.convert("RGB")).resize((190, 190), Image.Resampling.LANCZOS)
    ImageEnhance.Brightness(small).enhance(0.75).save(path, quality=60)
    return path


def real_tools(assets: Path, **chosen: str) -> RunSettings:
    weights = assets / "weights"
    return RunSettings(
        method="blur",
        detectors=(f"scrfd={weights / 'det_500m.onnx'}",),
        detect_size=640,
        recognizers=(f"foamliu={weights / 'foamliu_mobilefacenet.onnx'}",),
        **chosen,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("choice", ["keep", "only"])
def test_a_person_of_a_photograph_is_chosen_by_another_copy_of_it(
    assets: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    """One recognizer of real people is at hand, so here a single judge may choose."""
    monkeypatch.setattr(choose, "LEAST_JUDGES", 1)
    picture = crowd(assets, tmp_path / "crowd.png")
    chosen = str(reference(assets, PEOPLE[1], tmp_path / "person.jpg"))
    pipeline = build_pipeline(real_tools(assets, **{choice: chosen}), world, None)
    summary = deidentify_path(picture, tmp_path / "out", pipeline)
    assert dict(summary.counts) == {"written": 1}
    journal = tmp_path / "out/.deid/files/crowd.png/manifest.jsonl"
    record = json.loads(journal.read_text())
    people = sorted(record["faces"], key=lambda face: face["box"][0])
    stays = [face["verdict"] == "kept" for face in people]
    assert stays == ([False, True, False] if choice == "keep" else [True, False, True])
    before, after = pixels_of(picture), pixels_of(tmp_path / "out/crowd.png")
    for face, kept in zip(people, stays, strict=True):
        x0, y0, x1, y1 = face["box"]
        same = (before[y0:y1, x0:x1] == after[y0:y1, x0:x1]).all(axis=2)
        assert same.all() if kept else same.mean() < 0.1


def test_strangers_in_photographs_are_not_kept(
    assets: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 24 people is the reference for one crowd of all of them: nobody else stays."""
    monkeypatch.setattr(choose, "LEAST_JUDGES", 1)
    pipeline = build_pipeline(real_tools(assets), world, None)
    components = pipeline.components

    def find(picture: Pixels) -> list[Face]:
        return find_faces(picture, components, "blur")

    seen = []
    for first in range(0, 24, 4):
        picture = photograph(assets, [200] * 4, range(first, first + 4))
        row = sorted(find(picture), key=lambda face: float(face.geometry.box[0]))
        assert len(row) == 4
        seen += [(picture, face) for face in row]
    for number in range(24):
        file = reference(assets, number, tmp_path / "person.jpg")
        choosing = build_chooser(str(file), None, find, components.verifier)
        assert choosing is not None
        kept = [n for n, (picture, face) in enumerate(seen) if choosing.keeps(picture, face)]
        assert kept == [number]


def test_a_dry_run_draws_boxes_and_leaves_nothing_like_an_output(
    world: World, faces: list[Face], portrait: Path, tmp_path: Path
) -> None:
    settings = RunSettings(method="mask", keep=str(portrait), dry_run=True)
    pipeline = build_pipeline(settings, world, None)
    summary = deidentify_path(PAIR.parent, tmp_path, pipeline)
    assert set(summary.counts) == {"previewed"}
    assert "shows original faces" in summary.text()
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {f"{p.name}.preview.png" for p in PAIR.parent.iterdir()} | {"previews.jsonl"}
    shown = pixels_of(tmp_path / "pair.png.preview.png")
    x0, y0, x1, _ = (round(float(value)) for value in faces[1].geometry.box)
    assert (shown[y0, x0 + 2 : x1 - 2] == CHANGED).all()
    lines = [json.loads(line) for line in (tmp_path / "previews.jsonl").read_text().splitlines()]
    assert all("original faces" in line["reason"] for line in lines)
    assert all(face["verdict"] in ("previewed", "kept") for line in lines for face in line["faces"])
    assert set(deidentify_path(PAIR.parent, tmp_path, pipeline).counts) == {"done"}
    # Outputs never lie beside previews: a real run removes them, a dry run keeps away.
    (tmp_path / "mine.preview.png").write_bytes(b"mine")
    whole = replace(settings, dry_run=False)
    summary = deidentify_path(PAIR.parent, tmp_path, build_pipeline(whole, world, None))
    assert set(summary.counts) == {"written"}
    assert "1 files named *.preview.png may show original faces" in summary.text()
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {*(p.name for p in PAIR.parent.iterdir()), *AUDIT_FILES, "mine.preview.png"}
    with pytest.raises(DeidError, match="holds outputs, and previews show original faces"):
        deidentify_path(PAIR.parent, tmp_path, pipeline)
