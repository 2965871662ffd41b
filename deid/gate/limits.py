"""What one picture may cost, and the end of it: nothing is written that is not safe."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from deid.gate.fallback import SMALLEST_JUDGED


class Unsafe(Exception):
    """A picture that cannot be made safe: nothing of it may be written."""


@dataclass(frozen=True)
class Limits:
    """What one picture may cost. When `seconds` are over, its faces are masked; after twice as
    long there is no output. A step that hangs is not interrupted here."""

    seconds: float | None = None
    sweeps: int = 4  # after so many that found a face nobody had handled, there is no output
    smallest: int = SMALLEST_JUDGED  # pixels; smaller faces are destroyed, whatever the method
    clock: Callable[[], float] = time.monotonic


class Deadline:
    """The time that a picture has left."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._start = limits, limits.clock()

    @property
    def over(self) -> bool:
        """Whether only masks may be tried by now; raises `Unsafe` after twice the time."""
        allowed = self._limits.seconds
        if allowed is None:
            return False
        used = self._limits.clock() - self._start
        if used > 2 * allowed:
            raise Unsafe(f"out of time after {allowed:g} s")
        return used > allowed
