"""Previews show original faces, so they never stay beside outputs.

A dry run refuses a place with outputs; a real run removes the previews that are on record there,
and refuses a place with others, whose records are elsewhere.
"""

from deid.audit.seal import are_records
from deid.batch.journal import NAME, journal_stem
from deid.batch.manifest import PREVIEW_SUFFIX, PREVIEWS, Records
from deid.batch.outcome import content_sha256
from deid.batch.plan import ALONE, Inputs, Locations, records_of, refusal
from deid.errors import DeidError
from deid.storage.locations import open_storage
from deid.storage.protocol import Storage


def keep_previews_apart(locations: Locations, manifest: str, inputs: Inputs) -> None:
    """Of a dry run: `DeidError` where outputs are. Of a real run: remove the previews on record."""
    destination = locations.destination
    places = {str(storage): storage for storage in (locations.audit, destination)}
    if manifest == PREVIEWS:
        records = any(map(_has_records, places.values())) or _has_records_below(locations)
        if records or _present_outputs(locations, inputs):
            raise DeidError(
                f"{destination}: holds outputs, and previews show original faces; choose another "
                "destination for --dry-run"
            )
        return
    for name in _previewed_alone(destination):
        place = open_storage(records_of(str(destination), name))
        places[str(place)] = place
    for place in places.values():
        _remove_previews(Records(place, PREVIEWS), destination)


def _remove_previews(previews: Records, destination: Storage) -> None:
    for line in map(previews.last, previews.names()):
        output = (line or {}).get("output")
        if line and output and content_sha256(destination, output) == line.get("output_sha256"):
            destination.delete(output)
    if previews.names():
        previews.discard()


def refuse_previews(
    locations: Locations, inputs: Inputs, records: Records, previews: tuple[str, ...]
) -> None:
    """`DeidError` for a preview of a picture among `previews`, files of such names: one that is
    neither the output of an input so named nor was that of one that is gone."""
    for name in previews:
        theirs = (records.last(name) or {}).get("output") == name or name in inputs.files
        if not theirs and refusal(name.removesuffix(PREVIEW_SUFFIX)) is None:
            raise DeidError(
                f"{locations.destination}: {name} shows original faces, as an earlier --dry-run "
                "drew it; remove the previews, or choose another destination"
            )


def _has_records(place: Storage) -> bool:
    sealed = place.version(NAME) is not None and are_records(place.read(NAME))
    return sealed or bool(Records(place).names())


def _has_records_below(locations: Locations) -> bool:
    """Whether outputs are on record in the folders of the destination: of pictures done alone, or
    of another batch. The rest of a single picture's folder may be anyone's."""
    destination = locations.destination
    for name in destination.list(ALONE if locations.single else ""):
        if f"/{journal_stem(NAME)}" in name:
            return True
        if name.endswith(f"/{NAME}") and (text := destination.read(name)) and are_records(text):
            return True
    return False


def _previewed_alone(destination: Storage) -> set[str]:
    """Names under which pictures done alone have records of a dry run."""
    found = (name.removeprefix(ALONE).partition("/") for name in destination.list(ALONE))
    marks = (PREVIEWS, journal_stem(PREVIEWS))
    return {name for name, _, rest in found if rest.startswith(marks)}


def _present_outputs(locations: Locations, inputs: Inputs) -> bool:
    """Whether the destination has a file of an output's name."""
    if locations.single is not None:
        return locations.destination.version(locations.single[1]) is not None
    shared = inputs.files.keys() & locations.destination.list().keys()
    return any(refusal(name) is None for name in shared)
