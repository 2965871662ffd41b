"""Sentences that say what the figures mean; each is true whatever the figures are."""

from collections.abc import Mapping
from dataclasses import dataclass

from deid.evaluate.faces import FALSE_ACCEPT_RATE

Metrics = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
FEW_MATCHES = 10 * FALSE_ACCEPT_RATE


@dataclass(frozen=True)
class Verdict:
    """`mark` is good, bad or even."""

    mark: str
    text: str


def verdicts(metrics: Metrics, fid_label: str) -> list[Verdict]:
    """The headline, most important first; `fid_label` is what the world calls its FID."""
    attack, table1 = metrics["table1"]["adversarial"], metrics["table1"]
    rival, strongest = (("FGSM", table1["fgsm-0.1"]), ("MI-FGSM", table1["mifgsm-0.1"]))
    swap, rebuilt = metrics["table2"]["swap"], metrics["table3"]["reconstruction"]
    unrelated = metrics["table3"]["unrelated"]
    return [
        _compare("The adversarial mapping’s similarity", "id_similarity", attack, *rival),
        _compare(f"The adversarial mapping’s {fid_label}", "fid", attack, *rival),
        _detection(attack["detect_rate"]["mean"]),
        _matched("The adversarial mapping", attack, metrics["table1"]["original"]),
        _compare("The adversarial mapping’s similarity", "id_similarity", attack, *strongest),
        _swapped(swap),
        _matched("The swap", swap, metrics["table2"]["unchanged"]),
        _nearer(
            "A swap’s expression lies",
            swap["target_expression_loss"]["mean"],
            unrelated["expression_loss"]["mean"],
        ),
        _nearer(
            "A reconstruction’s picture lies", rebuilt["lpips"]["mean"], unrelated["lpips"]["mean"]
        ),
    ]


def _compare(
    subject: str,
    key: str,
    ours: Mapping[str, Mapping[str, float]],
    name: str,
    rival: Mapping[str, Mapping[str, float]],
) -> Verdict:
    a, b = ours[key], rival[key]
    figures = f"{_short(a['mean'])} against {_short(b['mean'])}"
    if abs(a["mean"] - b["mean"]) <= a["std"] + b["std"]:
        return Verdict("even", f"{subject} is level with that of {name} at ε = 0.1: {figures}.")
    mark, word = ("good", "lower") if a["mean"] < b["mean"] else ("bad", "higher")
    return Verdict(mark, f"{subject} is {word} than that of {name} at ε = 0.1: {figures}.")


def _detection(rate: float) -> Verdict:
    enough = rate >= 0.99
    return Verdict(
        "good" if enough else "bad",
        f"The detector finds a face in {rate:.1%} of the adversarial mapping’s pictures, "
        f"{'at least' if enough else 'fewer than'} the 99% asked for.",
    )


def _matched(
    subject: str,
    row: Mapping[str, Mapping[str, float]],
    before: Mapping[str, Mapping[str, float]],
) -> Verdict:
    after, originally = row["reidentification"]["mean"], before["reidentification"]["mean"]
    safe = after <= FEW_MATCHES
    warning = (
        "" if safe else " Someone who has other pictures of a person can still find some of them."
    )
    return Verdict(
        "good" if safe else "bad",
        f"{subject}: at worst, a recognizer that took no part matches {after:.1%} of the pairs of "
        f"an output and a picture of the same person ({originally:.1%} before; strangers: "
        f"{FALSE_ACCEPT_RATE:.1%}).{warning}",
    )


def _swapped(row: Mapping[str, Mapping[str, float]]) -> Verdict:
    donor, face = row["source_id_similarity"]["mean"], row["id_similarity"]["mean"]
    done = donor > face
    return Verdict(
        "good" if done else "bad",
        f"After a swap, recognizers that were never trained on see the "
        f"{'donor rather than the original' if done else 'original rather than the donor'}: "
        f"similarity {donor:.2f} with the donor, {face:.2f} with the original.",
    )


def _nearer(subject: str, ours: float, unrelated: float) -> Verdict:
    near = ours < unrelated
    return Verdict(
        "good" if near else "bad",
        f"{subject} {'nearer to' if near else 'no nearer to'} its target than an unrelated "
        f"face: {_short(ours)} against {_short(unrelated)}.",
    )


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"
