"""The card of a version: what it is for, what was measured by whom, where it ends, whose terms."""

from collections.abc import Sequence

from deid import __version__
from deid.batch.bundle import Bundle
from deid.params import Gates
from deid.registry.gates import FIGURES, Metrics
from deid.weights.catalog import find, needs

INTENDED = (
    "Replaces or perturbs every face of a photograph so that face recognizers no longer match it "
    "to the person, and checks each finished file with recognizers that had no part in making it. "
    "For handing on pictures and datasets without identities, and for research on that."
)
LIMITS = (
    "The figures are those of faces as the networks draw them, before any verification: the "
    "service and `deid run` draw a face that is still matched again, then pixelate, then mask it.",
    "Hair, ears, clothes, place and company stay: who knows the person may know the picture.",
    "A recognizer that nobody measured may match what these do not.",
    "A face that no detector finds stays as it is.",
    "Learned from faces that a generator draws; where that knows few such people (children, old "
    "people, dark skin, glasses), new faces are worse.",
)
NOT_FOR = "Not for making anyone pass as another, living person: donors are faces of nobody."
RENDERED = "Of the world mini: it knows rendered people only and refuses photographs."


def license_of(world: str) -> str:
    """The terms of the generator from whose pictures the stages learned."""
    files = needs(world).get("generator", ())
    terms = dict.fromkeys(find(file).license for file in files)
    return f"learned from a generator under: {'; '.join(terms)}" if terms else "MIT"


HOW = (
    "One column `image`: bytes of a JPEG, PNG or WebP (base64 through REST). Back come `image`, "
    "`faces` (how many), `verdict`, `similarities` and `level` (of the fallback), row for row. "
    "Methods that were trained: `swap` (another face, the same expression and pose) and "
    "`adversarial` (alike to people, a stranger to recognizers); `blur`, `pixelate` and `mask` "
    "need no training. The params `detector` (`yunet`, `scrfd`, `mtcnn`, or several with commas), "
    "`seed` and `strength` are as in `deid run`. With a key on the server (`DEID_KEY_FILE`), a "
    "`swap` is a pseudonym, by which people can be linked."
)


def model_card(model: str, bundle: Bundle, read: Metrics, gates: Gates, content: str) -> str:
    """Markdown."""
    world = bundle.world.name
    limits = [*LIMITS, *([RENDERED] if world == "mini" else [])]
    return "\n".join(
        [
            f"# {model}",
            "",
            INTENDED,
            "",
            NOT_FOR,
            "",
            "## What was measured",
            "",
            f"On {read.held_out or 'held-out faces'}; content `{content}`. Lower is better where "
            "the gate says ≤.",
            "",
            *_figures(read, gates),
            "",
            "## How to ask",
            "",
            HOW,
            "",
            "## Limits",
            "",
            *(f"- {limit}" for limit in limits),
            "",
            "## Terms",
            "",
            *_terms(world),
            "",
            f"Made by deid {__version__}.",
            "",
        ]
    )


def _figures(read: Metrics, gates: Gates) -> Sequence[str]:
    rows = ["| figure | value | gate | measured by | which had |", "|---|---|---|---|---|"]
    for figure in FIGURES:
        network = read.networks.get(figure.key.rpartition(".")[2], {})
        gate = figure.limit(gates)
        rows.append(
            f"| {figure.short} | {read.figures[figure.key]:.4g} | {gate['sign']} {gate['limit']:g} "
            f"| {network.get('name', 'not recorded')} | {network.get('part', 'not recorded')} |"
        )
    return rows


def _terms(world: str) -> Sequence[str]:
    """A row for each public file that the world stands on."""
    rows = [f"The trained stages: {license_of(world)}. The code: MIT."]
    files = dict.fromkeys(file for names in needs(world).values() for file in names)
    if files:
        rows += ["", "| network of the world | license |", "|---|---|"]
        rows += [f"| {name} | {find(name).license} |" for name in files]
    return rows
