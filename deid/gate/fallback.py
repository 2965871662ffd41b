"""What is tried next when a face was not made safe.

A rung is a method, `swap`, or a refinement of it, `swap+1`: the same method with another seed or
more strength. Every ladder ends in coarse pixels and an opaque mask.
"""

OPAQUE = "mask"
"""The last rung. It carries nothing of the face, so no recognizer needs to judge it."""

COARSE = "pixelate"
"""The rung before it; coarser than the method of that name where it is not what was asked for."""

GENERATIVE = frozenset({"swap", "adversarial", "reconstruction"})
"""Methods that make a whole new face; the others change or destroy the one that is there."""

RESHAPED = frozenset({"swap"})
"""Those among them whose head has a shape of its own."""

DESTRUCTIVE = frozenset({"blur", "pixelate"})
"""Methods that must cover the whole face, to its edge."""

SMALLEST_JUDGED = 24
"""Longer side of a face's box, in pixels, below which judges are not trusted to say that it is
unrecognizable: such a face is destroyed, whatever was asked for."""

_FURTHER = {
    "swap": ("swap+1", "swap+2", COARSE),
    "adversarial": ("adversarial+1", "swap", COARSE),
    "fgsm": ("fgsm+1", "pgd+1", COARSE),
    "pgd": ("pgd+1", "blur", COARSE),
    "blur": ("blur+1", COARSE),
    "pixelate": ("pixelate+1",),
    OPAQUE: (),
}


def ladder(method: str) -> tuple[str, ...]:
    """The rungs for `method` (`fgsm-0.03` has its own ε), in order: itself, refined, a stronger
    one, coarse pixels, an opaque mask."""
    further = _FURTHER.get(base(method), (COARSE,))
    return tuple(dict.fromkeys((method, *further, OPAQUE)))


def small_ladder(method: str) -> tuple[str, ...]:
    """The rungs for a face too small to be judged."""
    return (OPAQUE,) if base(method) == OPAQUE else (COARSE, OPAQUE)


def base(rung: str) -> str:
    """The method of a rung without its ε and refinement: `pgd+1` and `pgd-0.03` are `pgd`."""
    return rung.partition("+")[0].partition("-")[0]


def refinement(rung: str) -> int:
    """How often a rung's method was refined: 1 for `swap+1`."""
    return int(rung.partition("+")[2] or 0)
