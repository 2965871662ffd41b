"""prefect.yaml, as Prefect itself reads it. No container is run here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml

from tests.conftest import ROOT

FILE = ROOT / "prefect.yaml"
KINDS = {"processes": "process", "docker": "docker", "kubernetes": "kubernetes"}


def settings_of(kind: str) -> dict[str, Any]:
    """The schema of the job variables of a kind of work pool, which Prefect's server gives to
    `prefect work-pool create --type KIND`."""
    views = Path(prefect.__file__).parent / "server/api/collections_data/views"
    known = json.loads((views / "aggregate-worker-metadata.json").read_text())
    (found,) = (workers[kind] for workers in known.values() if kind in workers)
    schema: dict[str, Any] = found["default_base_job_configuration"]["variables"]
    return schema


def problems(pool: Any, kind: str) -> Iterator[str]:
    from prefect.cli.deploy._models import WorkPoolConfig
    from prefect.utilities.schema_tools import is_valid_schema, validate

    given = WorkPoolConfig.model_validate(pool)
    schema = settings_of(kind)
    is_valid_schema(schema)
    unknown = given.job_variables.keys() - schema["properties"].keys()
    yield from (f"{name}: no such setting" for name in sorted(unknown))
    yield from (str(error) for error in validate(given.job_variables, schema, raise_on_error=False))


@pytest.fixture
def pools() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["definitions"]["work_pools"]
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_template_has_only_what_its_kind_of_work_pool_takes(
    name: str, pools: dict[str, Any]
) -> None:
    assert set(pools) == set(KINDS)
    assert list(problems(pools[name], KINDS[name])) == []


def test_a_template_with_a_mistake_is_found(pools: dict[str, Any]) -> None:
    pools["docker"]["job_variables"] |= {"memlimit": "8g", "auto_remove": "never"}
    assert len(list(problems(pools["docker"], "docker"))) == 2


def test_prefect_reads_every_deployment_and_takes_each_kind_of_pool_for_it(
    pools: dict[str, Any],
) -> None:
    from prefect.cli.deploy._models import PrefectYamlModel

    content = yaml.safe_load(FILE.read_text())
    for pool in pools.values():
        for entry in content["deployments"]:
            entry["work_pool"] = pool
        read = PrefectYamlModel.model_validate(content)
        assert [d.name for d in read.deployments] == ["nightly", "on-drift", "hourly"]
        for deployment in read.deployments:
            assert deployment.work_pool is not None
            assert deployment.work_pool.name == pool["name"]
            assert deployment.work_pool.job_variables == pool.get("job_variables", {})


def test_no_secret_is_in_a_template(pools: dict[str, Any]) -> None:
    for pool in pools.values():
        names = pool.get("job_variables", {}).get("env", {})
        assert not [n for n in names if any(w in n for w in ("KEY", "SECRET", "TOKEN"))]


def test_one_machine_serves_every_deployment_with_its_schedules_and_their_time_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.serve import served

    content = yaml.safe_load(FILE.read_text())
    nightly, _, hourly = content["deployments"]
    nightly["schedules"][0]["timezone"] = "Europe/Berlin"
    hourly["schedules"].append({"cron": "30 4 * * 0"})
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(ROOT)
    made = {d.name: [s.schedule for s in d.schedules] for d in served(tmp_path / "prefect.yaml")}
    (night,) = made["nightly"]
    assert (night.cron, night.timezone) == ("0 2 * * *", "Europe/Berlin")
    assert made["on-drift"] == []
    assert made["hourly"][0].interval.total_seconds() == 3600
    assert made["hourly"][1].cron == "30 4 * * 0"


def test_to_serve_outside_a_project_is_an_error_that_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.serve import main

    monkeypatch.chdir(tmp_path)
    for there in ("prefect.yaml", "flows/retrain.py"):
        with pytest.raises(SystemExit, match=rf"serve: {there}: no such file here; go to"):
            main()
        (tmp_path / "prefect.yaml").write_text(FILE.read_text())
