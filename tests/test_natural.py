"""A distance from what natural pictures are like grows with whatever is done to them."""

import cv2
import numpy as np
import pytest

from deid.attack.natural import LEAST_SIDE, asymmetric_fit, described, unnaturalness
from deid.pixels import Pixels


@pytest.fixture(scope="module")
def textures() -> Pixels:
    """Pictures `[16,128,128,3]` whose detail is as in photographs: a power that falls with the
    square of the frequency."""
    random = np.random.default_rng(0)
    frequencies = np.fft.fftfreq(LEAST_SIDE)
    radius = np.hypot(*np.meshgrid(frequencies, frequencies)) + 1 / LEAST_SIDE
    noise = np.fft.fft2(random.normal(size=(16, LEAST_SIDE, LEAST_SIDE)))
    waves = np.fft.ifft2(noise / radius).real
    gray = 128 + 40 * waves / waves.std(axis=(1, 2), keepdims=True)
    return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=3)


def pixelated(picture: Pixels) -> Pixels:
    small = cv2.resize(picture, (16, 16), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, picture.shape[:2], interpolation=cv2.INTER_NEAREST)


def test_what_is_blurred_noisy_or_in_pixels_is_less_natural_the_more_the_less(
    textures: Pixels,
) -> None:
    usual, others = textures[:12], textures[12:]
    own = unnaturalness(usual, others)
    assert own is not None
    assert own.shape == (4,)
    assert (own > 0).all()
    random = np.random.default_rng(1)
    noise = random.normal(size=others.shape[:3])[..., None]

    def after(change: list[Pixels]) -> float:
        changed = unnaturalness(usual, np.stack(change))
        assert changed is not None
        return float(changed.mean())

    blurred = [after([cv2.GaussianBlur(x, (0, 0), s) for x in others]) for s in (1, 3)]
    noisy = [after(list((others + s * noise).clip(0, 255).astype(np.uint8))) for s in (8, 24)]
    assert own.mean() < blurred[0] < blurred[1]
    assert own.mean() < noisy[0] < noisy[1]
    assert after([pixelated(x) for x in others]) > blurred[0]
    assert np.isfinite(after([np.zeros_like(x) for x in others]))


def test_small_or_few_pictures_say_nothing(textures: Pixels) -> None:
    assert unnaturalness(textures[:, ::2, ::2], textures[:, ::2, ::2]) is None
    assert unnaturalness(textures[:2], textures[:2]) is None


def test_only_the_sharper_patches_say_what_is_usual(textures: Pixels) -> None:
    picture = textures[0].copy()
    picture[:64] = cv2.GaussianBlur(picture[:64], (0, 0), 4)
    assert len(described(picture)) == 16
    assert len(described(picture, 0.75)) <= 8


def test_the_fit_finds_shape_and_widths() -> None:
    random = np.random.default_rng(0)
    rows = np.stack([random.normal(size=40_000), random.laplace(size=40_000)])
    shape, left, right = asymmetric_fit(rows)
    assert shape == pytest.approx([2, 1], rel=0.05)
    assert left == pytest.approx([2**0.5, 1], rel=0.05)  # of a Gaussian √2 σ, of a Laplacian b
    assert right == pytest.approx(left, rel=0.05)
    skewed = np.where(rows[:1] > 0, 3 * rows[:1], rows[:1])
    _, left, right = asymmetric_fit(skewed)
    assert right / left == pytest.approx(3, rel=0.05)
