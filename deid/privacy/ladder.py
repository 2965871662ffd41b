"""What is tried next when a face was not made safe."""

OPAQUE = "mask"
"""The last rung. It carries nothing of the face, so no recogniser needs to judge it."""

GENERATIVE = frozenset({"swap", "adversarial", "reconstruction"})
"""Methods that make a whole new face; the others change or destroy the one that is there."""

DESTRUCTIVE = frozenset({"blur", "pixelate"})
"""Methods that must cover the whole face, to its edge."""


def ladder(method: str) -> tuple[str, ...]:
    """The rungs for `method`, in order: itself, coarse pixels, an opaque mask."""
    return tuple(dict.fromkeys((method, "pixelate", OPAQUE))) if method != OPAQUE else (OPAQUE,)
