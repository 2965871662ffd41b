"""Tables against expectations, by Great Expectations, with Data Docs that open without a network.

The library takes many seconds to import and likes to talk to its makers: it is imported when
tables are checked, with that switched off, and its pages lose whatever they would fetch.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Check:
    """An expectation: what it means in words, its class in `great_expectations.expectations`."""

    meaning: str
    expectation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a `Check`."""

    table: str
    meaning: str
    expectation: str
    expected: Mapping[str, Any]
    observed: str
    success: bool

    def __str__(self) -> str:
        wanted = ", ".join(f"{key}={value}" for key, value in self.expected.items())
        return f"{self.table}: {self.meaning}: {self.expectation}({wanted}): {self.observed}"


Tables = Mapping[str, tuple[pd.DataFrame, Sequence[Check]]]


def check_tables(tables: Tables, docs: Path) -> list[Outcome]:
    """Check every table; Data Docs of all of them in `docs`, to be opened at `index.html`."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context = _context(gx, docs)
    outcomes: list[Outcome] = []
    for name, (frame, checks) in tables.items():
        outcomes += _check_table(gx, context, name, frame, checks)
    context.build_data_docs(site_names=["docs"])  # once: its templates are read anew each time
    _write_offline(docs, outcomes)
    return outcomes


def _context(gx: Any, docs: Path) -> Any:
    """A context that lives in memory and writes its pages to `docs`, nothing anywhere else."""
    from great_expectations.data_context.types import base

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs.resolve()),
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites={"docs": site},
        progress_bars=base.ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _check_table(
    gx: Any, context: Any, name: str, frame: pd.DataFrame, checks: Sequence[Check]
) -> list[Outcome]:
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    suite = gx.ExpectationSuite(name=name)
    for check in checks:
        make = getattr(gx.expectations, check.expectation)
        suite.add_expectation(make(**check.arguments, notes=check.meaning))
    definition = gx.ValidationDefinition(
        name=name,
        data=asset.add_batch_definition_whole_dataframe(name),
        suite=context.suites.add(suite),
    )
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add(definition)],
    )
    run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
    (validation,) = run.run_results.values()
    results = {result.expectation_config.notes: result for result in validation.results}
    return [_outcome(name, check, results[check.meaning]) for check in checks]


def _outcome(table: str, check: Check, result: Any) -> Outcome:
    return Outcome(
        table=table,
        meaning=check.meaning,
        expectation=check.expectation,
        expected=dict(check.arguments),
        observed=_observed(result),
        success=bool(result.success),
    )


def _observed(result: Any) -> str:
    """One phrase for what was seen: a value, or how many rows are wrong and the first of them."""
    found = result.result
    if "observed_value" in found:
        value = found["observed_value"]
        return f"observed {value:.6g}" if isinstance(value, float) else f"observed {value}"
    if "unexpected_count" not in found:
        return f"could not be checked: {result.exception_info}"
    count, rows = found["unexpected_count"], found["element_count"]
    if not count:
        return f"all {rows} rows"
    row, value = found["partial_unexpected_index_list"][0], found["partial_unexpected_list"][0]
    return f"{count} of {rows} rows fail, first row {row}: {value}"


_FETCHED = (
    (r"<script\b.*?</script>", ""),  # those in the page serve those that are fetched
    (r"<link\b[^>]*\bhref=\"https?:[^>]*>", ""),
    (r"<img\b[^>]*\bsrc=\"https?:[^>]*>", ""),
    (r"url\('https?:[^)]*\)", "none"),
    (r"<footer>.*?</footer>", ""),
)


def _write_offline(docs: Path, outcomes: Sequence[Outcome]) -> None:
    """Rid the pages of what they would fetch, and replace the index, which is drawn by fetched
    scripts, by a table of our own."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deid.latents", "."), autoescape=True, undefined=StrictUndefined
    )
    style = f"<style>{environment.get_template('validation.css').render()}</style></head>"
    shutil.rmtree(docs / "static", ignore_errors=True)
    for page in docs.rglob("*.html"):
        text = page.read_text()
        for pattern, replacement in _FETCHED:
            text = re.sub(pattern, replacement, text, flags=re.DOTALL)
        page.write_text(text.replace("</head>", style, 1))
    pages = {page.relative_to(docs).parts[1]: page for page in docs.glob("validations/*/**/*.html")}
    links = {table: page.relative_to(docs).as_posix() for table, page in pages.items()}
    index = environment.get_template("validation.html").render(outcomes=outcomes, links=links)
    (docs / "index.html").write_text(f"{index}\n")
