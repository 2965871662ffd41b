"""Every public weight file the ffhq world may use: where it comes from, and on which terms.

One table, `FILES`. A hash given here was published for that file; where none is known, the first
file seen is recorded and every later one held to it (`deid.weights.store`). Addresses are those
the publishers document or others fetch the same hash from; a file without one says where a person
gets it. `commercial` follows the license its publisher states for the file (for the code, where
nothing else is stated) and none stated means no; `trained_on` names the data behind it, whose
terms may be narrower and are for you to judge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.filesize import decimal

from deid.errors import DeidError
from deid.storage.staging import file_sha256

Role = Literal[
    "generator", "identity", "expression", "landmarks", "detector", "held_out", "perceptual"
]
ROLES: tuple[Role, ...] = (
    "generator",
    "identity",
    "expression",
    "landmarks",
    "detector",
    "held_out",
    "perceptual",
)
RECOGNIZERS: tuple[Role, ...] = ("identity", "held_out")
MTCNN = ("mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet")
"""The three networks of one detector."""


@dataclass(frozen=True)
class Source:
    """One address of a file; with `member`, of the archive (zip or tar.gz) that holds it.

    `member` is a pattern that exactly one base name in the archive must match.
    """

    url: str
    member: str | None = None
    size: int | None = None  # bytes of the archive, where known


@dataclass(frozen=True)
class WeightFile:
    """A public file, its terms and how its network is fed."""

    name: str  # what commands and params call it
    file: str  # its name on disk
    role: Role  # its place in a world (deid.worlds.world.World)
    what: str
    license: str
    commercial: bool
    trained_on: str
    convention: str  # of the input
    sources: tuple[Source, ...] = ()  # mirrors, tried in this order
    by_hand: str = ""  # where a person gets it, if no address serves a program
    sha256: str | None = None
    sha256_prefix: str | None = None  # torchvision's habit: first hex digits in the file's name
    size: int | None = None  # bytes, rounded where only that is published; an estimate, no check
    also: tuple[Role, ...] = ()  # other places that it can take

    def serves(self, role: Role) -> bool:
        """Whether the file can take this place; any recognizer can be attacked or judge."""
        if self.role in RECOGNIZERS:
            return role in RECOGNIZERS
        return role == self.role or role in self.also

    @property
    def download_size(self) -> int | None:
        """Bytes the first address sends, where known; of an archive, all of it."""
        return (self.sources[0].size if self.sources else None) or self.size


MIT, APACHE, BSD = "MIT", "Apache-2.0", "BSD-3-Clause"
NVIDIA = "NVIDIA Source Code License: non-commercial research and evaluation"
INSIGHTFACE = "InsightFace pretrained models: non-commercial research"
UNSTATED = "none stated, so no permission beyond looking"

_FFHQ = "FFHQ (CC BY-NC-SA 4.0; each photograph its own Creative Commons license)"
_VGGFACE2 = "VGGFace2 (pictures from the web)"
_MS1M = "MS-Celeb-1M (withdrawn by its publisher)"
_IMAGENET = "ImageNet (pictures for non-commercial research)"
_W_INPUT = "z standard normal [N,512]; pictures come out in [-1, 1]"
_CAFFE = "BGR 0-255 minus (91.4953, 103.8827, 131.0912), 224 px"
_MTCNN = "RGB, (x - 127.5) / 128"

_GITHUB = "https://github.com"
_TORCHVISION = "https://download.pytorch.org/models"
_FACENET = "https://raw.githubusercontent.com/timesler/facenet-pytorch/master/data"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/vgg_face2/models/pytorch"
_INSIGHTFACE_RELEASES = f"{_GITHUB}/deepinsight/insightface/releases/download"
_OPENCV_ZOO = f"{_GITHUB}/opencv/opencv_zoo/raw/main/models"
_HUGGING_FACE = "https://huggingface.co"


def _oxford(variant: str, what: str) -> WeightFile:
    return WeightFile(
        name=f"vggface2-resnet50-{variant}",
        file=f"resnet50_{variant}_pytorch.pth",
        role="identity",
        what=what,
        license=f"{MIT} (code)",
        commercial=True,
        trained_on=_VGGFACE2 if variant == "scratch" else f"{_MS1M}, then {_VGGFACE2}",
        convention=_CAFFE,
        sources=(Source(f"{_OXFORD}/resnet50_{variant}_pytorch.tar.gz", member="*.pth"),),
    )


def _mtcnn(part: str, sha256: str, size: int) -> WeightFile:
    return WeightFile(
        name=f"mtcnn-{part}",
        file=f"{part}.pt",
        role="detector",
        what=f"MTCNN's {part}, of facenet-pytorch",
        license=MIT,
        commercial=True,
        trained_on="WIDER FACE and CelebA",
        convention=_MTCNN,
        also=("landmarks",) if part == "onet" else (),
        sources=(Source(f"{_FACENET}/{part}.pt"),),
        sha256=sha256,
        size=size,
    )


def _torchvision(name: str, file: str, role: Role, what: str, **known: int | str) -> WeightFile:
    sha256, size = known.get("sha256"), known["size"]
    return WeightFile(
        name=name,
        file=file,
        role=role,
        what=what,
        license=BSD,
        commercial=True,
        trained_on=_IMAGENET,
        convention="RGB [0, 1], ImageNet mean and deviation",
        sources=(Source(f"{_TORCHVISION}/{file}"),),
        sha256=str(sha256) if sha256 else None,
        sha256_prefix=file.removesuffix(".pth").rpartition("-")[2],
        size=int(size),
    )


_GENERATORS = (
    WeightFile(
        name="stylegan1-ffhq256-genforce",
        file="stylegan_ffhq256.pth",
        role="generator",
        what="StyleGAN, 256 px, FID 5.70 (`generator_smooth`)",
        license=f"{MIT} (code)",
        commercial=True,
        trained_on=_FFHQ,
        convention=_W_INPUT,
        sources=(
            Source(
                "https://mycuhk-my.sharepoint.com/:u:/g/personal/1155082926_link_cuhk_edu_hk/"
                "ES-NAUCC2qdHg87BftvlBiQBVpbJ8-005Q4TNr5KrOxQEw?e=00AnWt&download=1"
            ),
        ),
        by_hand="'StyleGAN Ours, ffhq-256x256' in MODEL_ZOO.md of github.com/genforce/genforce",
    ),
    WeightFile(
        name="stylegan1-ffhq256-rosinality",
        file="stylegan-256px-new.model",
        role="generator",
        what="StyleGAN, 256 px (`g_running`)",
        license=f"{MIT} (code)",
        commercial=True,
        trained_on=_FFHQ,
        convention=_W_INPUT,
        by_hand="the 256px link in the README of github.com/rosinality/style-based-gan-pytorch",
    ),
    WeightFile(
        name="stylegan2-ffhq256-nvidia",
        file="ffhq-res256-mirror-paper256-noaug.pkl",
        role="generator",
        what="StyleGAN2, 256 px, half width (channel base 16384), of StyleGAN2-ADA",
        license=NVIDIA,
        commercial=False,
        trained_on=_FFHQ,
        convention=_W_INPUT,
        sources=(
            Source(
                "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/"
                "transfer-learning-source-nets/ffhq-res256-mirror-paper256-noaug.pkl"
            ),
        ),
    ),
    WeightFile(
        name="stylegan2-ffhq256-ngc",
        file="stylegan2-ffhq-256x256.pkl",
        role="generator",
        what="StyleGAN2, 256 px, of NVIDIA NGC",
        license=NVIDIA,
        commercial=False,
        trained_on=_FFHQ,
        convention=_W_INPUT,
        sources=(
            Source(
                "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files/"
                "stylegan2-ffhq-256x256.pkl"
            ),
        ),
    ),
    WeightFile(
        name="stylegan2-ffhq256-rosinality",
        file="550000.pt",
        role="generator",
        what="StyleGAN2, 256 px, full width (`g_ema`)",
        license=NVIDIA,
        commercial=False,
        trained_on=_FFHQ,
        convention=_W_INPUT,
        by_hand="the checkpoint linked in the README of github.com/rosinality/stylegan2-pytorch",
    ),
)

_RECOGNIZERS = (
    _oxford("ft", "VGGFace2 ResNet-50, 2048-D, fine-tuned after MS-Celeb-1M; of Oxford VGG"),
    _oxford("scratch", "VGGFace2 ResNet-50, 2048-D; of Oxford VGG"),
    _oxford("128", "VGGFace2 ResNet-50 with 128-D features; of Oxford VGG"),
    _oxford("256", "VGGFace2 ResNet-50 with 256-D features; of Oxford VGG"),
    WeightFile(
        name="vggface2-resnet50-cydonia",
        file="resnet50_ft_weight.pkl",
        role="identity",
        what="VGGFace2 ResNet-50, 2048-D, the same network in cydonia999's form",
        license=f"{MIT} (code)",
        commercial=True,
        trained_on=f"{_MS1M}, then {_VGGFACE2}",
        convention=_CAFFE,
        by_hand="`resnet50_ft` in the README of github.com/cydonia999/VGGFace2-pytorch",
    ),
    WeightFile(
        name="facenet-vggface2",
        file="20180402-114759-vggface2.pt",
        role="held_out",
        what="InceptionResnetV1, 512-D, of facenet-pytorch",
        license=MIT,
        commercial=True,
        trained_on=_VGGFACE2,
        convention="RGB, (x - 127.5) / 128, 160 px; L2-normalized output",
        sources=(
            Source(
                f"{_GITHUB}/timesler/facenet-pytorch/releases/download/v2.2.9/"
                "20180402-114759-vggface2.pt"
            ),
        ),
        sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        size=111_898_327,
    ),
    WeightFile(
        name="arcface-w600k-r50",
        file="w600k_r50.onnx",
        role="held_out",
        what="ArcFace ResNet-50, 512-D, of InsightFace's buffalo_l",
        license=INSIGHTFACE,
        commercial=False,
        trained_on="WebFace600K",
        convention="RGB, (x - 127.5) / 127.5, 112 px aligned; output not normalized",
        sources=(
            Source(f"{_INSIGHTFACE_RELEASES}/v0.7/buffalo_l.zip", "w600k_r50.onnx", 288_621_354),
            Source(f"{_INSIGHTFACE_RELEASES}/model-zoo/buffalo_l.zip", "w600k_r50.onnx"),
            Source(f"{_HUGGING_FACE}/immich-app/buffalo_l/resolve/main/recognition/model.onnx"),
        ),
        sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        size=174_383_860,
    ),
    WeightFile(
        name="foamliu-mobilefacenet",
        file="foamliu_mobilefacenet.pt",
        role="held_out",
        what="MobileFaceNet, 128-D, trained with ArcFace",
        license=APACHE,
        commercial=True,
        trained_on=_MS1M,
        convention="RGB / 255, ImageNet mean and deviation, 112 px aligned",
        sources=(
            Source(f"{_GITHUB}/foamliu/MobileFaceNet/releases/download/v1.0/mobilefacenet.pt"),
        ),
        sha256="90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4",
        size=4_135_271,
    ),
    WeightFile(
        name="foamliu-mobilefacenet-onnx",
        file="foamliu_mobilefacenet.onnx",
        role="held_out",
        what="the same MobileFaceNet as ONNX, for `deid run --recognizer foamliu`",
        license=APACHE,
        commercial=True,
        trained_on=_MS1M,
        convention="RGB / 255, ImageNet mean and deviation, 112 px aligned",
        sources=(
            Source(
                f"{_GITHUB}/diandianti/photo_analyze/raw/"
                "dca5ae5a3977e9c4d2206e246cc55775fa7a9ed1/models/mobilefacenet.onnx"
            ),
        ),
        sha256="f055d9c9a4d826d198c42666590fdefa0fdc1374a75ccb6306c3d1b1bf8f74c5",
        size=3_973_728,
    ),
)

_DETECTORS = (
    _mtcnn("pnet", "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f", 28_570),
    _mtcnn("rnet", "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86", 403_147),
    _mtcnn("onet", "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d", 1_559_269),
    WeightFile(
        name="yunet",
        file="face_detection_yunet_2023mar.onnx",
        role="detector",
        what="YuNet, for `deid run --detector yunet`",
        license=MIT,
        commercial=True,
        trained_on="WIDER FACE",
        convention="BGR 0-255, any size",
        sources=(
            Source(f"{_OPENCV_ZOO}/face_detection_yunet/face_detection_yunet_2023mar.onnx"),
            Source(
                f"{_HUGGING_FACE}/opencv/face_detection_yunet/resolve/main/"
                "face_detection_yunet_2023mar.onnx"
            ),
        ),
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        size=232_589,
    ),
    WeightFile(
        name="scrfd-500m",
        file="det_500m.onnx",
        role="detector",
        what="SCRFD 500M, of InsightFace's buffalo_sc, for `deid run --detector scrfd`",
        license=INSIGHTFACE,
        commercial=False,
        trained_on="WIDER FACE",
        convention=_MTCNN,
        sources=(
            Source(f"{_INSIGHTFACE_RELEASES}/v0.7/buffalo_sc.zip", "det_500m.onnx"),
            Source(f"{_INSIGHTFACE_RELEASES}/model-zoo/buffalo_sc.zip", "det_500m.onnx"),
            Source(f"{_HUGGING_FACE}/immich-app/buffalo_s/resolve/main/detection/model.onnx"),
        ),
        sha256="5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a",
        size=2_524_817,
    ),
    WeightFile(
        name="scrfd-2.5g",
        file="scrfd_2.5g_bnkps.onnx",
        role="detector",
        what="SCRFD 2.5G, of InsightFace, for `deid run --detector scrfd=FILE`",
        license=INSIGHTFACE,
        commercial=False,
        trained_on="WIDER FACE",
        convention=_MTCNN,
        sources=(
            Source(
                f"{_GITHUB}/visomaster/visomaster-assets/releases/download/v0.1.0/"
                "scrfd_2.5g_bnkps.onnx"
            ),
        ),
        sha256="bc24bb349491481c3ca793cf89306723162c280cb284c5a5e49df3760bf5c2ce",
        size=3_290_207,
    ),
)

_OTHERS = (
    _torchvision(
        "inception-v3",
        "inception_v3_google-0cc3c7bd.pth",
        "expression",
        "torchvision's Inception-V3",
        size=108_950_000,
    ),
    WeightFile(
        name="mobilefacenet68",
        file="mobilefacenet_model_best.pth.tar",
        role="landmarks",
        what="MobileFaceNet for 68 landmarks, of cunjian/pytorch_face_landmark",
        license=UNSTATED,
        commercial=False,
        trained_on="300W (non-commercial research)",
        convention="BGR / 255, face crop of 112 px",
        sources=(
            Source(
                f"{_GITHUB}/cunjian/pytorch_face_landmark/raw/master/checkpoint/"
                "mobilefacenet_model_best.pth.tar"
            ),
        ),
        by_hand="`checkpoint/` of github.com/cunjian/pytorch_face_landmark",
    ),
    WeightFile(
        name="fid-inception",
        file="pt_inception-2015-12-05-6726825d.pth",
        role="perceptual",
        what="the Inception of the standard FID, of pytorch-fid",
        license=APACHE,
        commercial=True,
        trained_on=_IMAGENET,
        convention="RGB [0, 1], bilinear without antialias to 299 px, then 2x - 1",
        sources=(
            Source(
                f"{_GITHUB}/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth"
            ),
            Source(
                f"{_GITHUB}/toshas/torch-fidelity/releases/download/v0.2.0/"
                "weights-inception-2015-12-05-6726825d.pth"
            ),
        ),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        sha256_prefix="6726825d",
        size=95_628_359,
    ),
    _torchvision(
        "lpips-alexnet",
        "alexnet-owt-7be5be79.pth",
        "perceptual",
        "torchvision's AlexNet, LPIPS's usual backbone",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        size=244_408_911,
    ),
    _torchvision(
        "lpips-vgg16",
        "vgg16-397923af.pth",
        "perceptual",
        "torchvision's VGG-16, LPIPS's other backbone",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size=553_433_881,
    ),
)

FILES: tuple[WeightFile, ...] = _GENERATORS + _RECOGNIZERS + _DETECTORS + _OTHERS

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "scrfd": ("scrfd-500m",),
    "yunet": ("yunet",),
    "mtcnn": ("mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet"),
    "foamliu": ("foamliu-mobilefacenet-onnx",),
    "arcface": ("arcface-w600k-r50",),
}
"""The files behind what `deid run --detector` and `--recognizer` call by one word."""

_PAPER: Mapping[Role, tuple[str, ...]] = {
    # The paper has StyleGAN; StyleGAN2's file is the one whose address lasts.
    "generator": ("stylegan2-ffhq256-nvidia",),
    "identity": ("vggface2-resnet50-ft",),
    "expression": ("inception-v3",),
    "landmarks": ("mobilefacenet68",),
    "detector": MTCNN,
    "held_out": ("arcface-w600k-r50", "facenet-vggface2"),
    "perceptual": ("fid-inception", "lpips-alexnet"),
}
_COMMERCIAL: Mapping[Role, tuple[str, ...]] = {
    **_PAPER,
    "generator": ("stylegan1-ffhq256-genforce",),
    # No 68-point network here has a license that allows it: the five points of MTCNN's last one,
    # and for the rest what a face with these five has on average (deid.worlds.ffhq.five).
    "landmarks": ("mtcnn-onet",),
    "held_out": ("foamliu-mobilefacenet", "facenet-vggface2"),
}


def find(name: str) -> WeightFile:
    """The entry called `name` (or with that file name); DeidError names it where there is none."""
    for entry in FILES:
        if name in (entry.name, entry.file):
            return entry
    raise DeidError(f"{name}: no such weight file; `deid weights list` shows all names")


def size_text(size: int | None) -> str:
    """`174.4 MB`, or that nobody knows."""
    return "size not published" if size is None else decimal(size)


def needs(
    world: str,
    commercial_only: bool = False,
    chosen: Mapping[Role, tuple[str, ...]] | None = None,
) -> Mapping[Role, tuple[str, ...]]:
    """Role → the catalog's names of the files that `world` needs for it.

    `chosen` replaces a role's files by others of the catalog. Under `commercial_only` a file
    that its license forbids is refused, chosen or not (`require_commercial`). The mini world needs
    nothing from outside.
    """
    if world == "mini":
        return {}
    if world != "ffhq":
        raise DeidError(f"world {world!r}: unknown; write mini or ffhq")
    wanted = {**(_COMMERCIAL if commercial_only else _PAPER), **(chosen or {})}
    if strange := sorted(set(wanted) - set(ROLES)):
        raise DeidError(f"world.files.{strange[0]}: no such role; write one of {', '.join(ROLES)}")
    for role, names in wanted.items():
        if not names:
            raise DeidError(f"world.files.{role}: empty; name a file, see `deid weights list`")
        for name in names:
            if not find(name).serves(role):
                raise DeidError(f"{name}: is no {role} but {find(name).role}; choose another file")
    if commercial_only:
        require_commercial(name for names in wanted.values() for name in names)
    return wanted


def used_as(name: str) -> Literal["default", "commercial", "both", "-"]:
    """In which setting the ffhq world takes the file of that name unless others are chosen."""
    paper, commercial = (
        any(name in names for names in files.values()) for files in (_PAPER, _COMMERCIAL)
    )
    if paper and commercial:
        return "both"
    return "default" if paper else "commercial" if commercial else "-"


def require_commercial(names: Iterable[str]) -> None:
    """Raise DeidError naming the first file, and its license, that commercial use forbids."""
    for entry in map(find, names):
        if not entry.commercial:
            raise DeidError(
                f"{entry.name} ({entry.file}): license is {entry.license}, which the commercial "
                "variant does not allow; choose a file that `deid weights list` marks as commercial"
            )


def require_commercial_content(path: Path) -> None:
    """Raise DeidError unless `path` is, by its hash, a file that commercial use allows.

    A file that the catalog does not know is refused too: nobody here knows its license.
    """
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise DeidError(f"{path}: not readable ({error.strerror}); correct the path") from None
    known = [entry for entry in FILES if entry.sha256 == sha256]
    if not known:
        raise DeidError(
            f"{path}: not in the catalog, so its license is unknown, and the commercial variant "
            "refuses it; take a file that `deid weights list` marks as commercial"
        )
    require_commercial([known[0].name])
