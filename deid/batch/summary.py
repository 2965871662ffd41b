"""What a batch came to, as a person reads it on the console."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from deid.batch.outcome import Outcome

MOST = 10  # problems or notes told one by one


@dataclass
class Summary:
    """Counts of a batch; `failed` means that the command must not exit with 0."""

    record: str  # where the manifest is
    counts: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)  # by which faces were changed
    skipped: Counter[str] = field(default_factory=Counter)  # reasons
    problems: list[str] = field(default_factory=list)  # the first few
    lost: list[str] = field(default_factory=list)  # of which files what cannot come back, likewise
    lossy: int = 0  # how many files those are
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether any picture was not written."""
        return self.counts["quarantined"] > 0

    def add(self, outcome: Outcome) -> None:
        """Count one input."""
        self.counts[outcome.word] += 1
        line = outcome.line
        name = shown(line["file"])
        if outcome.word != "done":
            self.methods.update(face["method"] for face in line["faces"])
        if outcome.word == "skipped":
            self.skipped[line["reason"]] += 1
        if outcome.word == "quarantined" and len(self.problems) < MOST:
            self.problems.append(f"{name}: {line['reason']}")
        if outcome.word == "written" and line["notes"]:
            self.lossy += 1
            if len(self.lost) < MOST:
                self.lost.append(f"note: {name}: {', '.join(line['notes'])}")

    def merge(self, part: "Summary") -> None:
        """Count what another part of the same batch came to."""
        self.counts += part.counts
        self.methods += part.methods
        self.skipped += part.skipped
        self.problems = [*self.problems, *part.problems][:MOST]
        self.lost = [*self.lost, *part.lost][:MOST]
        self.lossy += part.lossy
        self.notes = tuple(dict.fromkeys((*self.notes, *part.notes)))

    def text(self) -> str:
        """Counts, methods, the first problems and notes."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        c = self.counts
        previewed = f"{c['previewed']} previewed, " if c["previewed"] else ""
        why = ", ".join(f"{count} × {reason}" for reason, count in sorted(self.skipped.items()))
        yield (
            f"{c['written']} written, {previewed}{c['done']} done before, "
            f"{c['quarantined']} quarantined, {c['skipped']} skipped{f' ({why})' if why else ''}; "
            f"{self.record}"
        )
        if self.methods:
            told = ", ".join(f"{count} by {name}" for name, count in sorted(self.methods.items()))
            yield f"faces: {told}"
        yield from self.problems
        if c["quarantined"] > len(self.problems):
            yield f"… and {c['quarantined'] - len(self.problems)} more in the manifest"
        yield from self.lost
        if self.lossy > len(self.lost):
            yield f"… and notes on {self.lossy - len(self.lost)} more in the manifest"
        yield from self.notes


def shown(name: str) -> str:
    """A name as one line that a terminal cannot take for anything else."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name
    )
