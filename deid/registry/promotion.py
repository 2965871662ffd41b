"""The alias `champion`: who holds it, who gets it, and the way back."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deid.errors import DeidError
from deid.params import RegisterParams
from deid.registry.files import find_version, registered, require_files
from deid.registry.gates import failed_gates, metrics_table
from deid.registry.moves import (
    PROMOTION,
    RETIREMENT,
    ROLLBACK,
    Move,
    history,
    make,
    moving,
    promotion,
)
from deid.registry.versions import (
    CHALLENGER,
    CHAMPION,
    FIRST,
    HELD_OUT,
    PASSED,
    PREVIOUS,
    PROMOTED,
    RETIRED,
    VALIDATION,
    WITHDRAWN,
    aliases_of,
    figures_of,
    is_usable,
    tag_validation,
    versions_of,
)
from deid.tracking import mlflow_client, store_errors

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

ATTEMPTS = 3  # to judge a challenger before anything is moved once more


@dataclass(frozen=True)
class Contest:
    """A challenger's figures beside the champion's, and the gates that it fails."""

    challenger: int
    failures: list[str]
    table: str
    champion: int | None = None


@store_errors()
def contest(params: RegisterParams, version: str = CHALLENGER) -> Contest:
    """Hold a version (by alias or number) against the gates and the champion; changes nothing but
    its tags."""
    client, model = mlflow_client(), params.model
    aliases = aliases_of(client, model)
    if version == CHALLENGER and CHALLENGER not in aliases:
        raise DeidError(f"{model}: there is no challenger; train another model with `dvc repro`")
    challenger = find_version(client, model, version)
    champion = aliases.get(CHAMPION)
    if str(challenger.version) == champion:
        raise DeidError(f"{model} version {champion} is {CHAMPION} already; nothing changed")
    if reason := challenger.tags.get(RETIRED):
        raise DeidError(f"{model} version {challenger.version} is retired: {reason}")
    promoted = _promoted(client, aliases, challenger)
    figures = figures_of(challenger)
    failures = failed_gates(params.gates, figures, promoted)
    failures += _measured_elsewhere(client, challenger, champion)
    limit = params.gates.max_slowdown
    if not failures and champion is not None and limit is not None:
        failures = _too_slow(client, challenger, champion, limit)
    if challenger.tags.get(VALIDATION) != WITHDRAWN:
        tag_validation(client, challenger, failures)
    table = metrics_table(params.gates, figures, promoted[-1] if promoted else None)
    return Contest(int(challenger.version), failures, table, int(champion) if champion else None)


def _measured_elsewhere(
    client: "MlflowClient", challenger: "ModelVersion", champion: str | None
) -> list[str]:
    """Figures of other faces do not compare."""
    if champion is None:
        return []
    mine = challenger.tags.get(HELD_OUT, "")
    theirs = client.get_model_version(challenger.name, champion).tags.get(HELD_OUT, "")
    if mine == theirs:
        return []
    return [
        f"held-out faces: measured on {mine or 'unknown ones'}, the champion on "
        f"{theirs or 'unknown ones'}; `deid registry measure champion` measures it on the same"
    ]


def _too_slow(
    client: "MlflowClient", challenger: "ModelVersion", champion: str, limit: float
) -> list[str]:
    """Times both, which takes the networks of both; the ratios stay as tags of the challenger."""
    from deid.registry.latency import failures, slowdowns

    model, number = challenger.name, str(challenger.version)
    ratios = slowdowns(registered(number, model).bundle, registered(champion, model).bundle)
    for method, ratio in ratios.items():
        tag = f"slowdown.{method}.against_{champion}"
        client.set_model_version_tag(model, number, tag, f"{ratio:.4g}")
    return failures(ratios, limit, champion)


def _promoted(
    client: "MlflowClient", aliases: Mapping[str, str], challenger: "ModelVersion"
) -> list[dict[str, float]]:
    """The figures of every other version that was champion, is still to be used, and was measured
    on the same faces; the champion's last, whatever it was measured on."""
    champions = {aliases[name] for name in (CHAMPION, PREVIOUS) if name in aliases}
    held_out = challenger.tags.get(HELD_OUT)
    versions = [
        version
        for number, version in versions_of(client, challenger.name).items()
        if is_usable(version)
        if number != str(challenger.version)
        if PROMOTED in version.tags or number in champions
        if number == aliases.get(CHAMPION) or version.tags.get(HELD_OUT) == held_out
    ]
    versions.sort(key=lambda v: (str(v.version) == aliases.get(CHAMPION), int(v.version)))
    return [figures_of(version) for version in versions]


@store_errors()
def promote(params: RegisterParams, version: str = CHALLENGER, why: str = "") -> str:
    """Make a version champion, by number or as challenger, if it passes every gate; says what was
    done. One that was rolled back can come back so.

    A promotion that was killed is made to its end. Errors: `DeidError` that names the failed gates
    with their figures; no alias moves then.
    """
    client, model = mlflow_client(), params.model
    for _ in range(ATTEMPTS):
        with _moving(client, model) as unfinished:
            asked = (CHALLENGER, unfinished.version) if unfinished else ()
            if unfinished and unfinished.what == PROMOTION and version in asked:
                return told(model, unfinished)
            moves = len(history(client, model))
        judged = contest(params, version)
        if judged.failures:
            stays = CHALLENGER if version == CHALLENGER else "as it is"
            raise DeidError(
                f"{model} version {judged.challenger} stays {stays}: "
                f"{'; '.join(judged.failures)}; train a better one or change register.gates"
            )
        with _moving(client, model):
            if len(history(client, model)) == moves:  # else it was judged by what is past
                number = str(judged.challenger)
                require_files(client, find_version(client, model, number))
                move = promotion(aliases_of(client, model), number, why)
                return told(model, make(client, model, move))
    raise DeidError(f"{model}: its versions were moved {ATTEMPTS} times meanwhile; try again")


@store_errors()
def rollback(params: RegisterParams, to: str | None = None, why: str = "") -> str:
    """Give `champion` back to `previous`, or to any version that once had it; says what was done.

    The version that had it is withdrawn, so that no retraining brings it back; `promote` with its
    number does. A rollback that was killed is made to its end.
    """
    client, model = mlflow_client(), params.model
    with _moving(client, model) as unfinished:
        if unfinished and unfinished.what == ROLLBACK and to in (None, unfinished.version):
            return told(model, unfinished)
        aliases = aliases_of(client, model)
        champion = aliases.get(CHAMPION)
        versions = versions_of(client, model)
        target = to or aliases.get(PREVIOUS)
        if target is None:
            raise DeidError(f"{model}: no previous champion to go back to; nothing changed")
        number = str(find_version(client, model, target).version)
        if number == champion:
            raise DeidError(f"{model} version {number} is {CHAMPION} already; nothing changed")
        if PROMOTED not in versions[number].tags and number != aliases.get(PREVIOUS):
            raise DeidError(
                f"{model} version {number} never was {CHAMPION}; `deid registry promote {number}` "
                "makes it that, if it passes the gates"
            )
        if reason := versions[number].tags.get(RETIRED):
            raise DeidError(f"{model} version {number} is retired: {reason}")
        require_files(client, versions[number])
        after: dict[str, str | None] = {
            CHAMPION: number,
            PREVIOUS: _before(number, versions, {champion or ""}),
        }
        tags = {number: {VALIDATION: PASSED}}
        if champion is not None:
            tags[champion] = {VALIDATION: WITHDRAWN}
        move = Move(ROLLBACK, number, champion, number, why, after, tags)
        return told(model, make(client, model, move))


def _before(version: str, versions: Mapping[str, "ModelVersion"], out: set[str]) -> str | None:
    """The champion before `version` that may still be used; those in `out` may not."""
    seen = {version}
    while True:
        version = versions[version].tags.get(PROMOTED, FIRST)
        if version not in versions or version in seen:
            return None
        if version not in out and is_usable(versions[version]):
            return version
        seen.add(version)


@store_errors()
def retire(params: RegisterParams, version: str, why: str) -> str:
    """Let nobody use a version any more; its files and its history stay. `DeidError` for the
    champion, which something must replace first."""
    client, model = mlflow_client(), params.model
    with _moving(client, model) as unfinished:
        aliases = aliases_of(client, model)
        number = str(find_version(client, model, version).version)
        if unfinished and (unfinished.what, unfinished.version) == (RETIREMENT, number):
            return told(model, unfinished)
        if number == aliases.get(CHAMPION):
            raise DeidError(
                f"{model} version {number} is {CHAMPION}; promote another or roll back first"
            )
        after: dict[str, str | None] = {}
        if number == aliases.get(CHALLENGER):
            after[CHALLENGER] = None
        if number == aliases.get(PREVIOUS):
            out = {number, aliases.get(CHAMPION, "")}
            after[PREVIOUS] = _before(number, versions_of(client, model), out)
        champion = aliases.get(CHAMPION)
        tags = {number: {RETIRED: why or "no reason given"}}
        move = Move(RETIREMENT, number, champion, champion, why, after, tags)
        return told(model, make(client, model, move))


def _moving(client: "MlflowClient", model: str) -> AbstractContextManager[Move | None]:
    """`moving`, of a model that there is."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise DeidError(f"{model}: nothing is registered; run `dvc repro` first") from None
    return moving(client, model)


def told(model: str, move: Move) -> str:
    """A move as a person reads it."""
    if move.what == RETIREMENT:
        return f"{model} version {move.version} is {RETIRED}"
    if move.what == ROLLBACK:
        withdrawn = f"; version {move.before} is {WITHDRAWN}" if move.before else ""
        return f"{model} version {move.after} is {CHAMPION} again{withdrawn}"
    before = f"; version {move.before} is {PREVIOUS}" if move.before else ""
    return f"{model} version {move.after} is {CHAMPION}{before}"


@store_errors()
def champion_version(model: str) -> int | None:
    """The version that is champion, or None when nothing was ever registered."""
    alias = aliases_of(mlflow_client(), model).get(CHAMPION)
    return None if alias is None else int(alias)
