"""Figure 1 as separate networks, each to be a file of an export.

Detector, alignment and gate are no part of figure 1, and stay behind.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from deid.model import Deidentifier
from deid.weights.catalog import Roles, find
from deid.weights.entry import Role

VALUES = {
    "faces": "FFHQ-aligned faces, RGB, from -1 to 1",
    "identity": "unit vectors",
    "expression": "what M is told of expression, pose and light",
    "w": "the generator's w",
    "w_adv": "the generator's w, of the same face to a human: generator takes it as its w",
    "pictures": "RGB, about -1 to 1: to be clipped there",
}
"""What goes in and comes out, all float32; by the name that it has in the files."""
OUTPUTS = {"mapping": "w", "adversarial_mapping": "w_adv", "generator": "pictures"}
"""What a network gives that is not called as the network is."""


@dataclass(frozen=True)
class Network:
    """One of figure 1: `compute` takes `inputs`, in this order, and gives `output`; `[N,...]`."""

    name: str
    symbol: str  # the paper's
    inputs: tuple[str, ...]
    compute: Callable[..., Tensor]
    owners: tuple[object, ...]  # whose weights it reads
    roles: tuple[Role, ...]  # of the public files that it is made of, or learned from

    @property
    def output(self) -> str:
        """Its name in `VALUES`."""
        return OUTPUTS.get(self.name, self.name)

    def module(self) -> nn.Module:
        """As torch's exporter wants it."""
        return _Module(self)

    def licenses(self, files: Roles) -> tuple[str, ...]:
        """Of those files, as the catalog says; none in a world without public files."""
        return tuple(dict.fromkeys(find(name).license for name in self._names(files)))

    def is_commercial(self, files: Roles) -> bool:
        """Whether each of them allows commercial use."""
        return all(find(name).commercial for name in self._names(files))

    def _names(self, files: Roles) -> list[str]:
        return [name for role in self.roles for name in files.get(role, ())]


class _Module(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.compute = network.compute
        owners = (owner for owner in network.owners if isinstance(owner, nn.Module))
        self.owners = nn.ModuleList(owners)

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.compute(*inputs)
        return output


def networks_of(model: Deidentifier, stretch: float) -> tuple[Network, ...]:
    """In the figure's order; without stage two there is no M_adv.

    `stretch`: how many times as far as M_adv says its w_adv is from w, as the method `adversarial`
    goes (`deid.anonymize.adversarial`), but for what `adversarial_distance` holds back.
    """
    world = model.world
    learned: tuple[Role, ...] = ("generator",)
    expressing: tuple[Role, ...] = ("expression", "contours", *learned)
    encoders = (model.expression_encoder, world.contours)

    def adversarial(w: Tensor) -> Tensor:
        return w + stretch * (model.adversarial_latent(w) - w)

    networks = [
        Network("identity", "En_id", ("faces",), world.identity, (world.identity,), ("identity",)),
        Network("expression", "En_expr", ("faces",), model.expression, encoders, expressing),
        Network("mapping", "M", ("identity", "expression"), model.latent_from, (model,), learned),
        Network("adversarial_mapping", "M_adv", ("w",), adversarial, (model,), learned),
        Network("generator", "G", ("w",), model.synthesize, (world.generator,), ("generator",)),
    ]
    if model.adversarial_mapping is None:
        del networks[3]
    return tuple(networks)
