"""Versions of the registered model: register, promote, roll back, retire, and look."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deid.cli.stages import PARAMS, REPORTS, ParamsFile

REGISTERED = Path("data/registered.json")

app = typer.Typer(
    help="The registered model: who is champion, what each version is, and the way back.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Why = Annotated[str, typer.Option("--why", help="For the history.")]
Version = Annotated[str, typer.Argument(help="A version's number, or champion, challenger, ….")]


def register(params: ParamsFile = PARAMS) -> None:
    """Make the trained anonymizer a version of the registered model."""
    from deid.batch.project import local_bundle
    from deid.params import load_params
    from deid.registry.register import register

    p = load_params(params)
    done = register(p.register_, local_bundle(p), REPORTS / "metrics.json", REGISTERED)
    standing = f"is {done.alias}" if done.alias else "has no alias"
    typer.echo(f"{done.model} version {done.version} {standing}, validation {done.validation}")


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Its number; else the challenger.")] = "challenger",
    why: Why = "",
    params: ParamsFile = PARAMS,
) -> None:
    """Make a version champion, if every gate in params.yaml holds."""
    from deid.params import load_params
    from deid.registry.promotion import promote

    typer.echo(promote(load_params(params).register_, version, why))


@app.command()
def rollback(
    to: Annotated[
        str | None, typer.Option("--to", help="A former champion; else the one before this.")
    ] = None,
    why: Why = "",
    params: ParamsFile = PARAMS,
) -> None:
    """Give the alias champion back to a version that had it before."""
    from deid.params import load_params
    from deid.registry.promotion import rollback

    typer.echo(rollback(load_params(params).register_, to, why))


@app.command()
def measure(version: Version, params: ParamsFile = PARAMS) -> None:
    """Evaluate a version anew, on the held-out faces that params.yaml says now."""
    from deid.params import load_params
    from deid.registry.measure import measure

    typer.echo(measure(load_params(params), version))


@app.command()
def retire(version: Version, why: Why = "", params: ParamsFile = PARAMS) -> None:
    """Let nobody use a version any more; its files and history stay."""
    from deid.params import load_params
    from deid.registry.promotion import retire

    typer.echo(retire(load_params(params).register_, version, why))


@app.command()
def status(as_json: AsJson = False, params: ParamsFile = PARAMS) -> None:
    """Who is champion, challenger and previous, and whether all is well."""
    from deid.params import load_params
    from deid.registry.overview import status

    found = status(load_params(params).register_)
    if as_json:
        _print_json(found)
        return
    typer.echo(f"{found['model']}: {_count(found['versions'], 'version')} in {found['store']}")
    files = f"  (files {found['champion_files']})" if found["champion"] else ""
    fails = f"  (fails {found['challenger_fails']})" if found["challenger_fails"] else ""
    for alias, more in (("champion", files), ("previous", ""), ("challenger", fails)):
        holder = f"version {found[alias]}" if found[alias] else "none"
        typer.echo(f"{alias:11}{holder}{more}")
    if move := found["last_move"]:
        typer.echo(f"{'last move':11}{_move_text(move)}")
    for move in found["unfinished"]:
        typer.echo(
            f"{move['what']} of version {move['version']} was killed midway; the next promote or "
            "rollback finishes it"
        )


@app.command("list")
def list_versions(as_json: AsJson = False, params: ParamsFile = PARAMS) -> None:
    """Every version, the newest first, with its gated figures."""
    from deid.params import load_params
    from deid.registry.gates import FIGURES
    from deid.registry.overview import list_versions

    found = list_versions(load_params(params).register_)
    if as_json:
        _print_json(found)
        return
    heads = ("version", "stands as", "gates", "made", "commit", "content")
    rows = [
        (
            *(row["version"], _standing(row), row["validation"]),
            row["created"][:16].replace("T", " "),
            *(_short_commit(row["git_commit"]), row["content_sha256"][:12]),
        )
        for row in found
    ]
    _print_table(heads, rows)
    typer.echo()
    figures = [[row["version"], *(row["figures"].get(f.key) for f in FIGURES)] for row in found]
    _print_table(("version", *(f.short for f in FIGURES)), figures)


@app.command()
def show(
    version: Version = "champion", as_json: AsJson = False, params: ParamsFile = PARAMS
) -> None:
    """All that is known of a version: origin, figures against gates, history."""
    from deid.params import load_params
    from deid.registry.overview import show_version

    p = load_params(params).register_
    found = show_version(p, version)
    if as_json:
        _print_json(found)
        return
    typer.echo(f"{p.model} version {found['version']}  {_standing(found)}")
    for label, key in (
        ("made", "created"),
        ("by run", "run_id"),
        ("commit", "git_commit"),
        ("deid", "deid_version"),
        ("content", "content_sha256"),
        ("files", "files"),
        ("lie in", "source"),
        ("gates", "validation"),
        ("retired", "retired"),
    ):
        if found[key]:
            typer.echo(f"{label:9}{found[key]}")
    typer.echo()
    gates = [(g["figure"], g["value"], f"{g['sign']} {g['limit']:g}") for g in found["gates"]]
    _print_table(("figure", "value", "gate"), gates)
    for failure in found["fails"]:
        typer.echo(f"fails {failure}")
    for move in found["history"]:
        typer.echo(_move_text(move))


@app.command()
def history(as_json: AsJson = False, params: ParamsFile = PARAMS) -> None:
    """Every move of the alias champion: who, what, when, from what to what, and why."""
    from deid.params import load_params
    from deid.registry.overview import moves_of

    found = moves_of(load_params(params).register_)
    if as_json:
        _print_json(found)
        return
    heads = ("", "when", "who", "what", "version", "champion", "why")
    rows = [
        (
            *(m["number"], m["when"], m["who"]),
            m["what"] + ("" if m["done"] else " (unfinished)"),
            *(m["version"], f"{m['before'] or 'none'} → {m['after'] or 'none'}", m["why"]),
        )
        for m in found
    ]
    _print_table(heads, rows)


@app.command()
def compare(
    one: Version, other: Version, as_json: AsJson = False, params: ParamsFile = PARAMS
) -> None:
    """Two versions, figure by figure; gated ones first."""
    from deid.params import load_params
    from deid.registry.overview import compare

    found = compare(load_params(params).register_, one, other)
    if as_json:
        _print_json(found)
        return
    names = [f"version {found[side]['version']}" for side in ("one", "other")]
    rows = [
        (row["figure"], row["one"], row["other"], row["is"] or "", "gated" if row["gated"] else "")
        for row in found["figures"]
    ]
    _print_table(("figure", *names, "", ""), rows)
    if found["settings"]:
        typer.echo()
        settings = [(row["setting"], row["one"], row["other"]) for row in found["settings"]]
        _print_table(("setting", *names), settings)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as what is in them; numbers to four digits."""
    lines = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _standing(row: Mapping[str, Any]) -> str:
    return ", ".join([*row["aliases"], *([row["standing"]] if row["standing"] else [])])


def _short_commit(commit: str) -> str:
    return commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


def _move_text(move: Mapping[str, Any]) -> str:
    champion = f"champion {move['before'] or 'none'} → {move['after'] or 'none'}"
    why = f": {move['why']}" if move["why"] else ""
    return f"{move['when']}  {move['who']}  {move['what']} {move['version']}, {champion}{why}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
