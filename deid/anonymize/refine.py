"""A few gradient steps on w from M's answer: slower than M alone, and closer to the expression.

M answers for all faces at once; here equation (4)'s losses are taken for one face. Everything
that follows is judged as any other output.

The person must not be known in what comes out. En_id is asked, and the world's ensemble beside it;
its other recognizers judge outputs or report figures, and so may not be. So that what these no
longer know others do not know either, each sees several views (input diversity, Xie et al. 2019),
its worst one counts, and where that is still more like the person than a stranger is to any of
them, as many steps follow again.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.anonymize.descent import Descent
from deid.diversity import diversify, draw_changes
from deid.losses import contour_loss, landmark_loss, opening_loss
from deid.model import Deidentifier
from deid.seeds import torch_generator
from deid.worlds.looks_shifts import LEFT
from deid.worlds.world import World

STEPS = 16
"""Where quality counts more than time: landmarks and openings are then met (`benchmarks`)."""

RATE, LAST_RATE = 0.08, 0.2
"""Adam's first rate, in standard deviations of w, and what part of it the last step has."""

BETAS = (0.8, 0.95)
AIM = 0.1
"""A cosine below which the person's likeness need not fall further."""

VIEWS = 2
"""Changed views of each picture in which the person must not be known either."""

LANDMARK, CONTOURS, OPENINGS, DONOR, PERSON, LIGHT, NEAR = 0.05, 0.08, 0.5, 0.5, 1.0, 0.5, 0.05
"""Weights: as in stage one, then of the donor's and the person's likeness, light and shade, and of
the way from M's answer."""

LOOKS = 0.15
"""That of the squared steps by which age, sex or skin are off, for away from the person is away
from them. At three times this, old people get glasses."""

LIGHT_CELLS, LIGHT_ROWS, LIGHT_COLUMNS = 8, slice(2, 7), slice(2, 6)
"""The picture in 8 × 8 means, and those that lie on the face."""


def refine(
    model: Deidentifier,
    answers: Tensor,
    faces: Tensor,
    people: Tensor,
    donors: Tensor,
    steps: int,
    strangers: Sequence[float] | None,
    looks: Tensor | None = None,
    columns: Sequence[int] = (),
) -> Tensor:
    """w `[N,w_dim]`, from `answers` of that shape on (M's), so that G(w) has the expression of
    `faces [N,3,R,R]`, remains the donors, of whom `donors [N,dim]` are En_id's unit vectors, and
    becomes nobody that an attacked recognizer of the world takes for the `people [N,3,R,R]` in any
    view (mostly those whom the faces show). Where a person's cosine in one exceeds that of
    `strangers`, one for each recognizer, after `steps`, there are as many again; None: the person
    may be known. Those `columns` of the faces' looks remain near those that are wanted, `looks
    [N,K]`, but for what nobody sees (`LEFT`). Drawn at the smallest side of the generator.
    """
    if looks is None:
        looks, columns = answers.new_zeros(len(answers), 0), ()
    wanted = looks[:, list(columns)]
    batch = answers, faces, people, donors, wanted
    return one_by_one(lambda *one: _refine(model, one, columns, steps, strangers), *batch)


def _refine(
    model: Deidentifier,
    one: Sequence[Tensor],
    columns: Sequence[int],
    steps: int,
    strangers: Sequence[float] | None,
) -> Tensor:
    answer, face, person, donor, looks = one
    world = model.world
    weight = PERSON if strangers is not None else 0.0
    unlike = _objective(model, face, person, donor, weight)
    off = _looks_off(world, looks, columns)

    def loss_of(w: Tensor) -> Tensor:
        output = model.synthesize(w, world.resolutions[0])
        return unlike(output) + off(output)

    answer = moved = model.standardize(answer)
    for _ in range(2):
        moved = descend(moved, lambda w: loss_of(model.unstandardize(w)), steps, RATE, NEAR, answer)
        w = model.unstandardize(moved)
        if strangers is None:
            break
        with torch.no_grad():
            seen = views(model.synthesize(w, world.resolutions[0]))
            known = _likenesses(_codes(world, seen), _codes(world, person))
        if (known <= known.new_tensor(strangers)).all():
            break
    return w


def _codes(world: World, pictures: Tensor) -> list[Tensor]:
    """What each attacked recognizer says of `[V,3,R,R]`: K times `[V,dim]`."""
    return [recognizer(pictures) for recognizer in world.attacked]


def _likenesses(codes: Sequence[Tensor], own: Sequence[Tensor]) -> Tensor:
    """How well each recognizer knows a person of `own` codes `[1,dim]` in the worst of several
    views' `codes [V,dim]`: the cosines `[K]`."""
    pairs = zip(codes, own, strict=True)
    return torch.stack([(code @ person[0]).amax() for code, person in pairs])


def views(output: Tensor) -> Tensor:
    """A picture `[1,3,R,R]` as it is, and changed as every other one is, `[1 + VIEWS,3,R,R]`."""
    changes = draw_changes(VIEWS, torch_generator("refine/views"))
    return torch.cat([output, diversify(output.expand(VIEWS, -1, -1, -1), changes)])


def one_by_one(make: Callable[..., Tensor], *batch: Tensor) -> Tensor:
    """What `make` gives for each face alone: many steps would make much of the float noise that
    the rest of a batch brings; nor is a batch faster on a CPU."""
    rows = zip(*(torch.split(tensor, 1) for tensor in batch), strict=True)
    return torch.cat([make(*row) for row in rows])


def descend(
    start: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    steps: int,
    rate: float,
    near: float,
    home: Tensor | None = None,
) -> Tensor:
    """Standardized w of one face, from `start [1,...]`, by `steps` of Adam down a loss and `near`
    of the mean squared way from `home`, or from the start."""
    start = start.detach()
    ahead = start - home.detach() if home is not None else torch.zeros_like(start)
    with torch.enable_grad():
        moved = torch.zeros_like(start, requires_grad=True)
        # An ε above noise: w+ has components on which no pixel depends.
        descent = Descent(moved, rate, BETAS, eps=1e-5)
        for step in range(steps):
            descent.rate = rate * (1.0 - (1.0 - LAST_RATE) * step / steps)
            descent.step(loss_of(start + moved) + near * (ahead + moved).square().mean())
    return start + moved.detach()


def _objective(
    model: Deidentifier, face: Tensor, person: Tensor, donor: Tensor, weight: float
) -> Callable[[Tensor], Tensor]:
    """The loss of what is drawn `[1,3,R,R]` for one face and one person of that shape and a donor's
    code `[1,dim]`, in which the person's likeness has a `weight`."""
    world, side = model.world, model.world.resolutions[0]
    scale = side / face.shape[-1]
    with torch.no_grad():
        own, light = _codes(world, person), _light(face)
        points = world.landmarks(face) * scale
        contours = world.contours(face) * scale if world.contours else None

    def loss_of(output: Tensor) -> Tensor:
        loss = LANDMARK * landmark_loss(points, world.landmarks(output), side)
        codes = _codes(world, views(output))
        known = (_likenesses(codes, own) - AIM).clamp_min(0).sum()
        loss = loss + DONOR * (1.0 - codes[0][0] @ donor[0]) + weight * known
        loss = loss + LIGHT * F.l1_loss(_light(output), light)
        if world.contours is None or contours is None:
            return loss
        moved = world.contours(output)
        openings = opening_loss(world.contours.openings(contours), world.contours.openings(moved))
        return loss + CONTOURS * contour_loss(contours, moved, side) + OPENINGS * openings

    return loss_of


def _looks_off(world: World, wanted: Tensor, columns: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The loss of what is drawn `[1,3,R,R]` where those `columns` of its looks are to be as
    `wanted [1,K]`, or nearly."""
    measure = world.looks
    if measure is None or not columns:
        return lambda output: output.new_zeros(())

    def off(output: Tensor) -> Tensor:
        difference = measure(output)[:, list(columns)] - wanted
        return LOOKS * F.softshrink(difference, LEFT).square().sum()

    return off


def _light(images: Tensor) -> Tensor:
    """Coarse light and shade of the face, `[N,3,5,4]`."""
    cells = F.interpolate(images, size=(LIGHT_CELLS, LIGHT_CELLS), mode="area")
    return cells[:, :, LIGHT_ROWS, LIGHT_COLUMNS]
