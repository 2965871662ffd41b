"""Face swapping (section 4.2): another person's features with this person's expression."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from deid.anonymize.base import working_side
from deid.anonymize.donor_pool import ATTRIBUTES, POSE, DonorPool, columns, counted
from deid.anonymize.pseudonyms import Pseudonyms, between
from deid.anonymize.refine import refine
from deid.anonymize.steering import SMALL, Steering, drawn_at, landmarks_of
from deid.anonymize.strangers import Strangers
from deid.faces.alignment import Points
from deid.imaging.flaws import FRINGE, GLASSES, MAYBE, SURELY, bridge, fringe
from deid.model import Deidentifier
from deid.nets.backbones import at_size
from deid.pixels import Pixels, to_pixels
from deid.seeds import torch_generator
from deid.worlds.world import SEX, World

NEAR = 24
"""Of so many donors who look most like the person, one is drawn."""

ASKED = 12
"""At most so many of them are drawn small, until one has no flaw that shows at once: of 60
portraits, 3.4 each."""

UNLIKE = 2.4
"""Difference in looks (`LooksNetwork`) beyond which a drawn face is of another age or skin, unless
faces are not led (`Steering`) and the bank has nobody nearer: stage one draws nobody over forty."""

OTHER_SEX = 1.0
"""Difference in the looks' certainty of the sex, a third of it, beyond which a drawn face may be of
another one: of 12 drawn for each of 100 portraits, 8 % were off by more than half."""

KNOWN = 0.42
"""Cosine in En_id with the person above which a drawn face is too much like them: M lets something
of the person through, more beside some donors than others, and other recognizers see it as well."""

KNOWN_WEIGHT = 10.0
"""Of what exceeds it, beside the other flaws."""

Expression = Literal["own", "another"]
"""Whose a new face has: the person's, or somebody's whom the seed draws."""

Flaw = tuple[bool, float]
"""Of another sex, which no lack of other flaws makes good, and all others together."""
FLAWLESS: Flaw = (False, 0.0)


@dataclass(frozen=True)
class Swap:
    """Gives each face the identity of somebody who does not exist.

    Donors are people whom the generator drew, so no real person is impersonated, and one seed
    always means the same donor. Where the world has a bank of them and `alike` is set, the donor is
    one who looks like the person (`DonorBank.choose`), also as drawn, but is not drawn as one whom
    En_id takes for the person, whose hair does not hang over the brows, and who wears glasses where
    the person surely does and else none. Otherwise it is
    drawn from the face's seed: a donor whose cosine with the original exceeds `max_similarity` in
    En_id is replaced by the seed's next draw; after `tries` draws the least similar one is taken.
    With `steps`, w is refined so often by its gradient (`refine`).

    Of the looks, those of `keep` (`ATTRIBUTES`) count, and without any the donor is drawn. Faces of
    donors who are alike are led to them, and where `keep` names the `POSE`, or the person looks far
    from ahead, turned to where they look (`Steering`). With a `pool`, so many donors of the bank
    serve everybody (`DonorPool`). With `pseudonyms`, the identity is what a secret key makes of the
    person's own, and neither the seed nor a flaw has a say. A `strength` below 1 goes that share of
    the arc from the person's own code to the other one. With `another` expression, that of somebody
    drawn by the seed is given, with pose and light, and nothing of the person's.
    """

    world: World
    model: Deidentifier
    max_similarity: float
    tries: int
    alike: bool = True
    steps: int = 0
    keep: tuple[str, ...] = tuple(ATTRIBUTES)
    strength: float = 1.0
    pool: int | None = None
    pseudonyms: Pseudonyms | None = None
    expression: Expression = "own"
    name: str = "swap"
    enough: int | None = None
    resolution: int | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", working_side(self.world))

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape: the donors' identity, the faces' expression."""
        shown = faces if self.expression == "own" else self._others(faces, seeds)
        if self.pseudonyms is not None or self.bank is None or self.strength < 1.0:
            return self.given(self.toward(self.codes(faces, seeds, shown), faces), shown, faces)
        donors, w = map(torch.stack, zip(*self._chosen(faces, seeds, shown), strict=True))
        return self._finished(w, donors, shown, faces)

    @torch.no_grad()
    def toward(self, donors: Tensor, faces: Tensor) -> Tensor:
        """The codes `[N,dim]` at `strength` between the faces' own and the donors'."""
        if self.strength == 1.0:
            return donors
        return between(self.world.identity(faces), donors, self.strength)

    @torch.no_grad()
    def given(self, donors: Tensor, faces: Tensor, people: Tensor | None = None) -> Tensor:
        """The faces `[N,3,R,R]` with the identity of donors of whom En_id `[N,dim]` is known, and
        like none of the `people [N,3,R,R]`, who are shown by the faces unless given."""
        people = faces if people is None else people
        aim = self.steering.aim(faces, people)
        w = self.steering(self.model.latent_of(donors, faces), aim)
        return self._finished(w, donors, faces, people)

    def _finished(self, w: Tensor, donors: Tensor, faces: Tensor, people: Tensor) -> Tensor:
        """What w `[N,w_dim]` draws, refined if it is to be: the rest of `given`."""
        if self.steps:
            # On the way to the donor it is the person whom it must remain like.
            strangers = self._strangers if self.strength == 1.0 else None
            asked = self.model, w, faces, people, donors, self.steps, strangers
            looks = self.steering.wanted(people)
            w = refine(*asked, looks, self.steering.columns)
        return drawn_at(self.model, w, faces.shape[-1])

    @cached_property
    def steering(self) -> Steering:
        """Of looks, where new faces may tell them: who shares a few donors with everybody, has a
        key's, or another expression, is to be hidden best."""
        shared = self.pool is not None or self.pseudonyms is not None
        hidden = self.bank is None or shared or self.expression != "own"
        looks = () if hidden else columns(self.keep)
        return Steering(self.world, self.model, POSE in self.keep, looks)

    @cached_property
    def _strangers(self) -> tuple[float, ...]:
        return Strangers(self.world).likenesses

    @property
    def bank(self) -> DonorPool | None:
        """The donors it chooses from, and those of their looks that count; None where it draws
        them."""
        if self.world.donors is None or self.world.looks is None:
            return None
        if not self.alike or not columns(self.keep):
            return None
        return DonorPool.of(self.world.donors, self.keep, self.pool)

    @torch.no_grad()
    def codes(self, faces: Tensor, seeds: Sequence[int], shown: Tensor | None = None) -> Tensor:
        """En_id of each face's donor, `[N,dim]`, with whom the expression of `shown [N,3,S,S]` is
        to go well, if it is not the faces' own."""
        if self.pseudonyms is not None:
            own, kept = self.world.identity(faces), kept_looks(self.world, self.keep, faces)
            return self.pseudonyms(own, kept, self.max_similarity)
        if self.bank is None:
            return self.world.identity(self.donors(faces, seeds))
        chosen = self._chosen(faces, seeds, faces if shown is None else shown)
        return torch.stack([code for code, _ in chosen])

    def _chosen(
        self, faces: Tensor, seeds: Sequence[int], shown: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each face's donor from the bank, En_id `[dim]`, and w `[w_dim]` of what is drawn."""
        bank = self.bank
        assert bank is not None
        people = zip(*self.world.code_and_looks(faces), strict=True)
        return [
            self._unflawed(bank, person, face[None], other[None], seed)
            for person, face, other, seed in zip(people, faces, shown, seeds, strict=True)
        ]

    def _unflawed(
        self, bank: DonorPool, person: tuple[Tensor, Tensor], face: Tensor, shown: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """The code `[dim]` of the first donor drawn for a person (code and looks) of a face
        `[1,3,R,R]` who shows no flaw with the expression of the one that is `shown`, and w
        `[w_dim]`; without any, of the one who shows least, and of the person's sex if any is."""
        own = self.expression == "own"
        glasses = own and bridge(*self._seen(at_size(face, SMALL))) > SURELY
        expression = self.model.expression(shown)
        aim = self.steering.aim(shown, face, person[1][None])
        who = person[0], counted(person[1], self.keep)
        reach = 0.0 if self.steering.leads else bank.reach(*who, self.max_similarity, NEAR)
        unlike = max(UNLIKE, reach)
        flaws: list[tuple[Flaw, Tensor, Tensor]] = []
        for attempt in range(ASKED):
            random = torch_generator("donor", attempt, seed)
            code = bank.choose(*who, self.max_similarity, NEAR, random)
            w = self.steering(self.model.latent_from(code[None], expression), aim)
            drawn = drawn_at(self.model, w, SMALL)
            flaws.append((self._flaw(drawn, person, unlike, glasses), code, w[0]))
            if flaws[-1][0] == FLAWLESS:
                break
        return min(flaws, key=lambda tried: tried[0])[1:]

    def _flaw(
        self, drawn: Tensor, person: tuple[Tensor, Tensor], unlike: float, glasses: bool
    ) -> Flaw:
        """What is wrong with a drawn face `[1,3,R,R]` for a person (code and looks), from whose
        looks it may differ by `unlike`."""
        own, looks = person
        seen = self._seen(drawn)
        hangs = max(0.0, fringe(*seen) - FRINGE)
        wrong = bridge(*seen) < GLASSES if glasses else bridge(*seen) > MAYBE
        code, drawn_looks = self.world.code_and_looks(drawn)
        known = KNOWN_WEIGHT * max(0.0, float(code[0] @ own) - KNOWN)
        difference = drawn_looks[0] - looks
        other_sex = "sex" in self.keep and bool(difference[SEX].abs() > OTHER_SEX)
        far = float(counted(difference, self.keep).norm()) - unlike
        return other_sex, hangs + wrong + known + max(0.0, far)

    def _seen(self, face: Tensor) -> tuple[Pixels, Points]:
        """A face `[1,3,R,R]` as pixels, and its landmarks there."""
        return to_pixels(face)[0], landmarks_of(self.world, face)[0] * face.shape[-1]

    @torch.no_grad()
    def donors(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """The donor picture of each face, at the world's resolution."""
        original = self.world.identity(faces)
        chosen = self._draw(seeds, 0).to(faces)
        similarity = (self.world.identity(chosen) * original).sum(dim=1)
        for attempt in range(1, self.tries):
            again = torch.nonzero(similarity > self.max_similarity).flatten()
            if len(again) == 0:
                break
            drawn = self._draw([seeds[i] for i in again.tolist()], attempt).to(faces)
            cosine = (self.world.identity(drawn) * original[again]).sum(dim=1)
            better = cosine < similarity[again]
            chosen[again[better]] = drawn[better]
            similarity[again[better]] = cosine[better]
        return chosen

    def _draw(self, seeds: Sequence[int], attempt: int) -> Tensor:
        w = self._people([torch_generator("donor", attempt, seed) for seed in seeds])
        return self.world.generator.synthesis(w).clamp(-1.0, 1.0)

    def _others(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """People drawn by their seeds alone, in the shape of `faces [N,3,R,R]`."""
        name = f"expression/{self.pseudonyms.seed}" if self.pseudonyms else "expression"
        w = self._people([torch_generator(name, 0, seed) for seed in seeds])
        return at_size(drawn_at(self.model, w, SMALL), faces.shape[-1])

    def _people(self, random: Sequence[torch.Generator]) -> Tensor:
        z = [torch.randn(self.world.generator.z_dim, generator=one) for one in random]
        return self.world.truncated_mapping(torch.stack(z).to(self.world.device))


def kept_looks(world: World, keep: Sequence[str], faces: Tensor) -> Tensor:
    """Those looks of `faces [N,3,R,R]`, `[N,K]`; K is 0 where the world measures none."""
    if not keep or world.looks is None:
        return faces.new_zeros(len(faces), 0)
    return world.looks(faces)[:, columns(keep)]
