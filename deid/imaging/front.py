"""What of a picture stays before a new face: hair that hangs over it, but no arms of glasses.

Below the eyes that is what is broader than a wrinkle. Above the brows it is every single hair that
comes down from beyond the face, up to where the brows may begin: there hair ends in tips.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points
from deid.imaging.align import Square, Window, from_upright, upright
from deid.imaging.blend import Picture
from deid.imaging.skin import Skin, from_skin, reaching_in, soft_parts

CHEEK = 0.6  # of the height of the square, down to which what has no edge is shade up to the hair
CAST = 0.05  # of its side: how far about such shade hair is taken for it
CHIN = 0.78  # of the height of the square, below which no hair hangs over a face,
ASIDE = 0.13  # of its width from the middle, within which that holds
RIM = 0.03  # of it: how far a face fades over hair
GRID = 512  # longer side of the grid on which single hairs are told from skin
SKIN, HAIR = 8.0, 17.0  # distances in Lab from the skin's color at which nothing, and all, is hair
BESIDE = 0.03  # of the square's side: how far a brow may reach beyond the core
TIPS = 0.04  # of the square's side: how far above what may be a brow hair begins to end,
UNEVEN = 0.45  # of it: how much sooner the lightest of it ends than the darkest,
SOFT = 0.25  # of it: how softly
STRAND, LOCK = 0.0015, 0.015  # of the square's side: how broad they are
ALONG = 0.02  # of it: how far a strand runs
SIDE = 192  # of the upright crop on which glasses are looked for
BRIDGE, BROW = (0.43, 0.52), (0.36, 0.41)  # of its height: where a bridge may be, and is skin above
NOSE = (0.475, 0.525)  # of its width
TEMPLES = (0.36, 0.6)  # of its height
TALL = 0.14  # of its height: hair that hangs beside an eye is no lower, arms of glasses are


@dataclass(frozen=True)
class Front:
    """Over one window of a picture: `picture float32 [h,w,3]` in levels of 256 and the `skin` found
    in it; `alpha [h,w]`, 1 over the face; `core uint8 [h,w]`, 1 where nothing may stay."""

    picture: Picture
    skin: Skin
    alpha: Picture
    core: NDArray[np.uint8]
    square: Square
    window: Window

    def mask(self, new: Skin | None) -> tuple[Picture, NDArray[np.uint8]]:
        """`alpha` of a new face, in which `new` skin was found, behind what stays; and where it is
        1 and no broad hair is near, `[h,w]` both."""
        likeness, arms = self.skin.likeness, self._arms(new)
        hair = reaching_in(likeness, (self.alpha >= 1).astype(np.float32)) * (1 - self.core)
        across, down = places(self.square, self.window)
        shadow = (down > CHIN) & (np.abs(across - 0.5) < ASIDE)  # of the jaw, dark as hair
        hair[shadow | (arms > 0)] = 0
        shade = self._shade(hair)
        hair[shade] = 0
        whole = ((self.alpha >= 1) & (hair == 0)).astype(np.uint8)
        distance = cv2.distanceTransform(1 - whole, cv2.DIST_L2, 5)
        rim = np.clip(1.0 - distance / max(1.5, RIM * self.square.side), 0.0, 1.0)
        rim = rim * rim * (3 - 2 * rim)
        shown = np.minimum(self.alpha, np.maximum(likeness * (1 - hair), rim))
        shown = np.where(whole, np.float32(1), shown)
        above = 1.0 - below_eyes(self.square, self.window)
        fringe = self._fringe(above)
        if (cast := _touching(shade, shade & (down > CHEEK))).any():
            fringe *= 1.0 - _spread(cast.astype(np.float32), CAST * self.square.side)
        shown += above * (np.minimum(self.alpha, 1.0 - fringe) - shown)
        shown += arms * (self.alpha - shown)
        return np.where(self.core > 0, np.float32(1), shown), whole

    def _shade(self, hair: Picture) -> NDArray[np.bool_]:
        """Which of what was taken for hair, `[h,w]`, is skin."""
        height, width = hair.shape
        scale = min(1.0, GRID / max(hair.shape))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small, alpha, picture = (_shrunk(one, size) for one in (hair, self.alpha, self.picture))
        soft = soft_parts(small > 0.5, alpha >= 1, picture, scale * self.square.side)
        full = cv2.resize(soft.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return np.asarray(full > 0) & (hair > 0)

    def _fringe(self, above: Picture) -> Picture:
        """How much of each pixel `[h,w]` is hair that hangs over the forehead, where `above` is
        more than 0."""
        (rows,) = np.nonzero(above.any(axis=1))
        fringe = np.zeros_like(self.alpha)
        if len(rows) == 0:
            return fringe
        part = slice(rows[0], rows[-1] + 1)
        height, width = fringe[part].shape
        scale = min(1.0, GRID / max(fringe.shape))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        fields = self.picture, self.skin.tone, self.alpha, self.core
        picture, tone, alpha, core = (_shrunk(field[part], size) for field in fields)
        core = self._with_brows(core, scale)
        hairs = _hanging(picture, tone, alpha, core, scale * self.square.side)
        fringe[part] = cv2.resize(hairs, (width, height), interpolation=cv2.INTER_LINEAR)
        return fringe

    def _with_brows(self, core: Picture, scale: float) -> Picture:
        """The core `[h,w]`, shrunk by `scale`, made wider along the face: the outer ends of brows,
        which are none of it, are no tips of hair."""
        a, b, _ = self.square.to_crop(1)[0]
        side = scale * self.square.side
        along = BESIDE * side * np.array([a, b]) / max(float(np.hypot(a, b)), 1e-9)
        reach = int(np.ceil(np.abs(along).max()))
        line = np.zeros((2 * reach + 1,) * 2, np.uint8)
        first, last = (np.rint(reach + sign * along).astype(int).tolist() for sign in (-1, 1))
        cv2.line(line, first, last, 1)
        return np.asarray(cv2.dilate(core, line), np.float32)

    def _arms(self, new: Skin | None) -> Picture:
        """1 over arms of glasses of the old face where it wears some and the new one does not."""
        old = upright(self.skin.likeness, self.square, self.window, SIDE)
        worn = new is not None and _has_bridge(
            upright(new.likeness, self.square, self.window, SIDE)
        )
        if worn or not _has_bridge(old):
            return np.zeros_like(self.alpha)
        face = upright(self.alpha, self.square, self.window, SIDE)
        other = ((old < 0.7) | (face < 1)).astype(np.uint8)
        tall = np.ones((round(TALL * SIDE) | 1, 1), np.uint8)
        low = other & (cv2.morphologyEx(other, cv2.MORPH_OPEN, tall) == 0)
        first, last = (round(share * SIDE) for share in TEMPLES)
        low[:first] = low[last:] = 0
        low = cv2.dilate(low, np.ones((3, 5), np.uint8)).astype(np.float32)
        return from_upright(low, self.square, self.window)


def _touching(mask: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those parts of `mask [h,w]` in which there are any `seeds`."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    chosen = np.unique(parts[seeds])
    return np.isin(parts, chosen[chosen > 0])


def _spread(mask: Picture, width: float) -> Picture:
    """1 where `mask [h,w]` is, falling to 0 about `width` pixels beside it."""
    wider = cv2.dilate(mask, np.ones((round(width) | 1,) * 2, np.uint8))
    return np.asarray(cv2.GaussianBlur(wider, (0, 0), max(0.5, 0.3 * width)), np.float32)


def _has_bridge(likeness: Picture) -> bool:
    """Whether something dark crosses the nose between the eyes of an upright crop `[SIDE,SIDE]`,
    under skin: a bridge of glasses, and no hair."""
    x0, x1 = (round(share * SIDE) for share in NOSE)
    under, over = (
        likeness[round(y0 * SIDE) : round(y1 * SIDE), x0:x1] < 0.5 for y0, y1 in (BRIDGE, BROW)
    )
    return bool(under.any(axis=0).all() and over.mean() < 0.5)


def _hanging(
    picture: Picture, tone: Picture, alpha: Picture, core: Picture, side: float
) -> Picture:
    """How much of each pixel `[h,w]` of `float32 [h,w,3]`, whose skin has `tone`, is hair from
    beyond the face; the FFHQ square has `side` pixels."""
    shown = (picture / 255).clip(0, 1).astype(np.float32)
    gray, lab = (
        np.asarray(cv2.cvtColor(shown, code), np.float32)
        for code in (cv2.COLOR_RGB2GRAY, cv2.COLOR_RGB2LAB)
    )
    matte = ((from_skin(lab, tone) - SKIN) / (HAIR - SKIN)).clip(0.0, 1.0).astype(np.float32)
    matte = _guided(matte, gray, max(1, round(0.006 * side)))
    distance = cv2.distanceTransform((core <= 0).astype(np.uint8), cv2.DIST_L2, 5)
    room = (distance / (TIPS * side)).clip(0, 1)
    tips = matte * (1 - UNEVEN * _lightness(gray, matte, side)) - (1 - room)
    hairs = matte * np.where(room < 1, np.clip(tips / SOFT, 0.0, 1.0), 1.0)
    shine = (hairs > 0.2) & (alpha > 0) & (lab[..., 0] > tone[..., 0])
    hairs[soft_parts(shine, alpha > 0, picture, side)] = 0
    _, parts = cv2.connectedComponents((hairs > 0.2).astype(np.uint8))
    beyond = np.unique(parts[alpha <= 0])
    joined = np.isin(parts, beyond[beyond > 0]).astype(np.uint8)
    return np.asarray(hairs * cv2.dilate(joined, np.ones((3, 3), np.uint8)), np.float32)


def _shrunk(field: NDArray[Any], size: tuple[int, int]) -> Picture:
    small = cv2.resize(field.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _lightness(gray: Picture, matte: Picture, side: float) -> Picture:
    """How much lighter, 0 to 1, a strand is than the lock of hair it belongs to."""

    def mean(width: float) -> Picture:
        across, along = max(0.5, width * side), max(0.5, ALONG * side)
        total, weight = (
            cv2.GaussianBlur(field, (0, 0), sigmaX=across, sigmaY=along)
            for field in (gray * matte, matte)
        )
        return np.asarray(total / (weight + 1e-3), np.float32)

    detail = mean(STRAND) - mean(LOCK)
    usual = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), max(0.5, 0.05 * side)))
    return np.asarray(0.5 + 0.5 * np.tanh(detail / (usual + 0.002)), np.float32)


def _guided(values: Picture, guide: Picture, radius: int, flat: float = 4e-4) -> Picture:
    """`values [h,w]` smoothed but for edges that `guide` has as well (He, Sun, Tang, Guided Image
    Filtering, 2010); a variance of it below `flat` is no edge."""

    def mean(field: Picture) -> Picture:
        return np.asarray(cv2.blur(field, (2 * radius + 1,) * 2))

    a, b = mean(guide), mean(values)
    spread = mean(guide * guide) - a * a + flat
    slope = np.asarray((mean(guide * values) - a * b) / spread, np.float32)
    level = np.asarray(b - slope * a, np.float32)
    return np.asarray(np.clip(mean(slope) * guide + mean(level), 0.0, 1.0), np.float32)


def below_eyes(square: Square, window: Window) -> Picture:
    """0 above the eyes to 1 below them, over `window` `[h,w]`."""
    _, down = places(square, window)
    return np.asarray(np.clip((down - 0.4) / 0.12, 0.0, 1.0), dtype=np.float32)


def places(square: Square, window: Window) -> tuple[Points, Points]:
    """How far across and down its FFHQ square each pixel of `window` lies: the eyes at 0.47, the
    mouth at 0.75 of its height."""
    x0, y0, x1, y1 = window
    y, x = np.ogrid[y0:y1, x0:x1]
    across, down = (a * (x + 0.5) + b * (y + 0.5) + c for a, b, c in square.to_crop(1))
    return across, down
