"""The paper's losses, one function each, by equation number.

Equation (1), z, is `Deidentifier.code` in `deid.model`; equation (10), Clip_δ, is `clip_delta` in
`deid.nets.mappers`. Means are taken over the batch everywhere, so that no weight depends on its
size, and lengths are fractions of the picture, so that none depends on the resolution.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.faces.alignment import INNER

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales, finest first (Wang, Simoncelli and Bovik 2003)."""


def discriminator_loss(real_logits: Tensor, mapped_logits: Tensor) -> Tensor:
    """Equation (2) without its R1 term: -E[log D_W(w)] - E[log(1 - D_W(M(z)))], from logits."""
    return F.softplus(-real_logits).mean() + F.softplus(mapped_logits).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """The R1 term of equation (2) without γ: ½ E‖∇_w D_W(w)‖² of the logit, `real [N,w_dim]`."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return 0.5 * gradient.square().sum(1).mean()


def mapping_adversarial_loss(mapped_logits: Tensor) -> Tensor:
    """Equation (3): -E[log D_W(M(z))], non-saturating, from logits."""
    return F.softplus(-mapped_logits).mean()


def non_adversarial_loss(
    terms: tuple[Tensor, Tensor, Tensor], weights: tuple[float, float, float]
) -> Tensor:
    """Equation (4): λ1 L_id + λ2 L_landmark + λ3 L_reconstruct."""
    (identity, landmark, reconstruct), (λ1, λ2, λ3) = terms, weights
    return λ1 * identity + λ2 * landmark + λ3 * reconstruct


def identity_loss(source: Tensor, output: Tensor) -> Tensor:
    """Equation (5): mean L1 between identity codes `[N,dim]` (unit vectors).

    Codes are scaled to unit variance, so two strangers are about 1.13 apart whatever `dim` is.
    """
    return F.l1_loss(output, source) * math.sqrt(source.shape[1])


def landmark_loss(source: Tensor, output: Tensor, size: int) -> Tensor:
    """Equation (6): mean squared distance of the 51 inner landmarks.

    Landmarks `[N,68,2]` are in pixels of pictures with side `size`; the loss is in squared
    hundredths of that side. (The paper says 52 points; 68-point networks have 51.)
    """
    offset = (output - source)[:, INNER] * (100.0 / size)
    return offset.square().sum(2).mean()


def contour_loss(source: Tensor, output: Tensor, size: int) -> Tensor:
    """Not in the paper: as equation (6), of the points `[N,P,2]` on lips and eyelids.

    The 68 landmarks hardly tell an open mouth from a closed one.
    """
    return ((output - source) * (100.0 / size)).square().sum(2).mean()


def opening_loss(source: Tensor, output: Tensor) -> Tensor:
    """Not in the paper: mean squared difference of how far mouth and eyes are open, `[N,K]`.

    In spreads over faces, as an eye's opening is a fraction of a hundredth of the picture, which
    would count for nothing among the distances of `contour_loss`.
    """
    return F.mse_loss(output, source)


def latent_loss(source: Tensor, output: Tensor) -> Tensor:
    """Not in the paper: mean squared error of standardized w `[N,w_dim]`, where the face's own is
    known because the generator drew it."""
    return F.mse_loss(output, source)


def expression_loss(source: Tensor, output: Tensor) -> Tensor:
    """Not in the paper: mean squared difference of frozen expression features `[N,dim]`.

    Landmarks do not show where the eyes look or which way the light comes from; these features do.
    """
    return F.mse_loss(output, source)


def reconstruction_loss(source: Tensor, output: Tensor, alpha: float, same: bool) -> Tensor:
    """Equation (7): the mix loss where identity and expression come from one face, else 0."""
    return mix_loss(source, output, alpha) if same else output.new_zeros(())


def mix_loss(source: Tensor, output: Tensor, alpha: float) -> Tensor:
    """Equation (8): α (1 - MS-SSIM) + (1 - α) L1 of pictures `[N,3,H,W]` in [-1, 1]."""
    structure = 1.0 - ms_ssim(source, output).mean()
    return alpha * structure + (1.0 - alpha) * F.l1_loss(output, source)


def model_identity_loss(source: Tensor, output: Tensor, floor: float = -1.0) -> Tensor:
    """Equation (9): mean cosine between identity codes `[N,dim]`; stage two drives it down.

    A cosine below `floor` counts as `floor`: who is a stranger already need not change further.
    """
    return F.cosine_similarity(source, output).clamp_min(floor).mean()


def visual_identity_loss(source: Tensor, output: Tensor, size: int) -> Tensor:
    """Equation (11): as equation (6), between the original face and its adversarial picture."""
    return landmark_loss(source, output, size)


def looks_loss(source: Tensor, output: Tensor) -> Tensor:
    """Not in the paper: mean squared difference of age, sex and skin, `[N,K]`, in steps that one
    sees (`LooksNetwork`). A recognizer is most easily fooled by a face of other descent."""
    return (output - source).square().sum(1).mean()


def adversarial_mapping_loss(terms: tuple[Tensor, Tensor], weights: tuple[float, float]) -> Tensor:
    """Equation (12): λ4 L_id^model + λ5 L_id^visual."""
    (model, visual), (λ4, λ5) = terms, weights
    return λ4 * model + λ5 * visual


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity of each pair, `[N]`; pictures `[N,3,H,W]` in [-1, 1].

    The window is the usual 11 × 11 Gaussian with σ 1.5. Only scales that hold a whole window are
    used (three at 64 px, five from 176 px) and their weights are renormalized. Contrast below a
    small positive floor counts as the floor: a fractional power of it would have no gradient.
    """
    scales = ms_ssim_scales(min(a.shape[-2:]))
    weights = [weight / sum(MS_SSIM_WEIGHTS[:scales]) for weight in MS_SSIM_WEIGHTS[:scales]]
    similarity = a.new_ones(len(a))
    for scale, weight in enumerate(weights):
        whole, contrast = _ssim(a, b)
        last = scale == scales - 1
        similarity = similarity * (whole if last else contrast).clamp_min(1e-4) ** weight
        if not last:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return similarity


def ms_ssim_scales(side: int) -> int:
    """How many of the five scales a picture with this side has."""
    return max(1, sum(side >> scale >= 11 for scale in range(len(MS_SSIM_WEIGHTS))))


def _ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure part, mean over pixels and channels: two `[N]`."""
    c1, c2 = (0.01 * 2.0) ** 2, (0.03 * 2.0) ** 2  # the range of values is 2
    mean_a, mean_b, square_a, square_b, product = _windowed(a, b)
    variance = square_a - mean_a**2 + square_b - mean_b**2
    contrast = (2.0 * (product - mean_a * mean_b) + c2) / (variance + c2)
    light = (2.0 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (light * contrast).mean((1, 2, 3)), contrast.mean((1, 2, 3))


def _windowed(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Gaussian-windowed means of a, b, a², b², ab; only windows that lie inside the picture."""
    stack = torch.cat([a, b, a * a, b * b, a * b], 1)
    positions = torch.arange(-5.0, 6.0, device=a.device, dtype=a.dtype)
    window = torch.softmax(-(positions**2) / (2.0 * 1.5**2), 0)
    channels = stack.shape[1]
    kernel = window.expand(channels, 1, 11)
    stack = F.conv2d(stack, kernel[..., None], groups=channels)
    stack = F.conv2d(stack, kernel[..., None, :], groups=channels)
    return stack.chunk(5, 1)
