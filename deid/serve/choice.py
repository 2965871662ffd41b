"""Which model is served: as `--model` says, and for an alias what it holds by now."""

from dataclasses import dataclass
from pathlib import Path

from deid.registry.choice import ALIASES, Chosen, chosen, model_name
from deid.registry.files import find_version
from deid.registry.promotion import champion_version
from deid.registry.versions import CHAMPION
from deid.tracking import mlflow_client, store_errors, store_exists


@dataclass(frozen=True)
class Choice:
    """`asked`: what `--model` names; None: the champion where a registry has one, else the
    project's own stages, else those that ship."""

    asked: str | None
    root: Path
    world: str | None

    @property
    def moves(self) -> bool:
        """Whether another version may take its place."""
        return self.asked in ALIASES or (self.asked is None and self.world is None)

    def now(self) -> Chosen:
        """The model as it stands; `DeidError` where there is none."""
        return chosen(self._name(), model_name(self.root), self.root, self.world)

    @store_errors()
    def newer(self, present: Chosen) -> Chosen | None:
        """Another one than `present` by now; asks for no more than its number first."""
        name = self._name()
        if name is None:
            return None
        version = find_version(mlflow_client(), model_name(self.root), name).version
        return None if str(version) == present.version else self.now()

    def _name(self) -> str | None:
        if self.asked is not None or self.world is not None or not store_exists():
            return self.asked
        return CHAMPION if champion_version(model_name(self.root)) is not None else None
