"""How versions of the registered model stand in MLflow: their aliases, tags and figures.

register → `challenger` → gates → `champion`, and the one before it is kept under `previous`
"""

from typing import TYPE_CHECKING

from deid.registry.gates import FIGURES

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
CONTENT, VALIDATION, REASON = "content_sha256", "validation", "validation_reason"
PASSED, FAILED, WITHDRAWN = "passed", "failed", "withdrawn"
HELD_OUT = "held_out"
"""The tag of what a version's figures were measured on."""
RETIRED = "retired"
"""The tag of a version that nobody may use any more: why."""
PROMOTED, FIRST = "promoted_after", "none"
"""The tag of a version that was made champion: which one was before it. It stays: the best of those
that have it is the mark to reach."""


def aliases_of(client: "MlflowClient", model: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return {k: str(v) for k, v in client.get_registered_model(model).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def versions_of(client: "MlflowClient", model: str) -> dict[str, "ModelVersion"]:
    """Number → version, the oldest first."""
    found: list[ModelVersion] = []
    page = client.search_model_versions(f"name='{model}'")
    found += page
    while page.token:
        page = client.search_model_versions(f"name='{model}'", page_token=page.token)
        found += page
    return {str(v.version): v for v in sorted(found, key=lambda v: int(v.version))}


def barred(version: "ModelVersion") -> str:
    """Why a version gets no alias by itself: withdrawn by a rollback, or retired; else empty."""
    if version.tags.get(RETIRED):
        return RETIRED
    return WITHDRAWN if version.tags.get(VALIDATION) == WITHDRAWN else ""


def is_usable(version: "ModelVersion") -> bool:
    """Neither withdrawn by a rollback nor retired."""
    return not barred(version)


def tag_validation(client: "MlflowClient", version: "ModelVersion", failures: list[str]) -> str:
    verdict = FAILED if failures else PASSED
    client.set_model_version_tag(version.name, version.version, VALIDATION, verdict)
    client.set_model_version_tag(version.name, version.version, REASON, "; ".join(failures))
    return verdict


def figures_of(version: "ModelVersion") -> dict[str, float]:
    return {f.key: float(version.tags[f.key]) for f in FIGURES if f.key in version.tags}
