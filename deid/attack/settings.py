"""What `deid attack` is asked for, beside what it examines."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deid.errors import DeidError
from deid.option import option

if TYPE_CHECKING:  # so that the help of a command does not wait for what reads params.yaml
    from deid.params import AnonymizeParams

NAMES = ("A0", "A0b", "A1", "A2", "A2+", "A3", "A3+", "A4")
"""Of the attackers."""


@dataclass(frozen=True)
class AttackSettings:
    """Who is who, who attacks, what is shown, and what may not be exceeded (shares, 0 to 1)."""

    pairs: str | None = option(
        None,
        "A CSV with the columns original, output, person; each other column makes groups. Else an "
        "output has its original's name, or that with another suffix.",
    )
    people: str = option(
        "auto",
        "Who is who, without a CSV: each file is another person, or each folder, or each prefix of "
        "a file's name up to _ or -; auto: folder if all are in folders, else file.",
    )
    again: str | None = option(
        None, "The originals anonymized by the same method with another seed or key."
    )
    donor_pool: int | None = option(
        None,
        "The outputs are swaps: say what their donors tell, if made with this --donor-pool, or "
        "with 0 for none.",
    )
    attackers: tuple[str, ...] = option(
        (),
        "A0 to A4, A2+ or A3+ (docs/threats.md), of whom A0 always attacks; all if not given.",
        "--attacker",
    )
    fine_tune: int = option(
        0,
        "Steps by which A2+ fine-tunes each recognizer, six times: 40 take minutes. 0: A2+ does "
        "not attack.",
    )
    recognizers: tuple[str, ...] = option(
        (),
        "A further attacker: foamliu or arcface, or with a path: foamliu=FILE.",
        "--recognizer",
    )
    detectors: tuple[str, ...] = option(
        (),
        "yunet, scrfd or mtcnn, or with a path: yunet=FILE; else what is here.",
        "--detector",
    )
    detect_size: int = option(640, "Longer side at which faces are found.")
    compare: tuple[Path, ...] = option((), "A report of other outputs, to stand in the same plot.")
    pictures: bool = option(
        True, "Show the outputs that are found most clearly.", "--pictures/--no-pictures"
    )
    max_rank1: float | None = option(None, "Fail above this rank-1 of the best attacker.")
    max_tar: float | None = option(None, "The same of TAR at a FAR of 0.1 %.")
    min_detected: float | None = option(
        None, "Fail where a detector finds a smaller share of faces."
    )
    seed: int = option(0, "Of the draws behind the intervals.")
    anonymize: "AnonymizeParams | None" = None  # not asked: from params; None: its defaults
    called: tuple[str, str] | None = None  # not asked: what reports call the folders; None: that

    def __post_init__(self) -> None:
        if unknown := set(self.attackers) - set(NAMES):
            raise DeidError(f"--attacker {min(unknown)}: unknown; choose of {', '.join(NAMES)}")
        if self.fine_tune < 0:
            raise DeidError(f"--fine-tune {self.fine_tune}: 0 steps or more")
        for name, share in self.limits.items():
            if share is not None and not 0.0 <= share <= 1.0:
                raise DeidError(f"--{name.replace('_', '-')} {share:g}: a share is from 0 to 1")

    @property
    def asked(self) -> tuple[str, ...]:
        """Who attacks."""
        return tuple(n for n in NAMES if n == NAMES[0] or n in (self.attackers or NAMES))

    @property
    def limits(self) -> dict[str, float | None]:
        """What outputs may not exceed, by option; None: whatever it is."""
        return {
            "max_rank1": self.max_rank1,
            "max_tar": self.max_tar,
            "min_detected": self.min_detected,
        }
