"""Which records of earlier runs a batch believes: it goes on from them and seals them anew."""

import hashlib
import os

from deid.audit.keys import AuditKey
from deid.audit.seal import (
    AUDIT_FILES,
    SEAL,
    Read,
    are_records,
    changed_records,
    is_seal,
    is_sealed,
    is_signed,
    unproven,
)
from deid.batch.journal import NAME, is_unfinished
from deid.batch.manifest import Records
from deid.batch.plan import Locations
from deid.errors import DeidError
from deid.storage.local import LocalStorage
from deid.storage.protocol import PRIVATE, Storage

PENDING = f"{PRIVATE}{SEAL}"
"""The seal that a batch is about to write, where there is a key: a run that is killed meanwhile
leaves a manifest that only this one vouches for."""

SOURCE = f"{PRIVATE}source.sha256"
"""Tells the source of the records from others, and does not name it."""


def refuse_another_source(locations: Locations, records: Records) -> None:
    """`DeidError` where the records are of another source: names in them are relative to theirs, so
    that outputs of one would be overwritten for the other, or removed as if it were gone. What an
    earlier version recorded has no source, and takes this one."""
    audit, source = locations.audit, locations.source
    place = str(source.root.resolve() if isinstance(source, LocalStorage) else source)
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()
    known = "" if audit.version(SOURCE) is None else audit.read(SOURCE).decode(errors="replace")
    if known == digest:
        return
    if known and records.names():
        raise DeidError(
            f"{audit}: its records are of another source than {source}; choose another "
            f"destination, or, if it is the same source that moved, remove {audit}/{SOURCE}"
        )
    audit.write(SOURCE, digest.encode())


def is_settled(audit: Storage, manifest: str, key: AuditKey | None) -> bool:
    """Whether what an earlier batch left needs no other form."""
    if manifest != NAME:
        return audit.version(manifest) is not None
    return is_sealed(_reader(audit), key)


def refuse_untrusted(audit: Storage, key: AuditKey | None) -> None:
    """`DeidError` for records that a run must not take for its own, and for files that it must not
    overwrite."""
    _refuse_changed_records(audit)
    _refuse_what_is_not_ours(audit, key)
    if key is not None and (problems := unproven(_reader(audit), key, PENDING)):
        raise DeidError(
            f"{audit}: {problems[0]}; only what the key has signed is signed again: see `deid "
            "audit verify`, restore it, or move the audit files away to begin anew"
        )


def _refuse_changed_records(audit: Storage) -> None:
    """Those of a run that ended before its seal have a journal; they are older than it."""
    if is_unfinished(audit):
        return
    if changed := changed_records(_reader(audit)):
        raise DeidError(
            f"{audit}: {' and '.join(changed)} changed since the seal; see `deid audit verify`, "
            "restore them, or move the audit files away to begin anew"
        )


def _refuse_what_is_not_ours(audit: Storage, key: AuditKey | None) -> None:
    """A run must overwrite nobody's own files of the audit's names, nor a proof that it cannot
    renew."""
    if audit.version(SEAL) is not None and is_seal(sealed := audit.read(SEAL)):
        if key is None and is_signed(sealed):
            raise DeidError(
                f"{audit}: its records are signed; name the key in DEID_AUDIT_KEY_FILE, or the "
                "proof would be lost"
            )
        return
    if is_unfinished(audit):
        return
    taken = [name for name in AUDIT_FILES if audit.version(name) is not None]
    if taken and not (taken[0] == NAME and are_records(audit.read(NAME))):
        raise DeidError(
            f"{audit}: {taken[0]} is there and is no record of deid's; choose another --audit"
        )


def _reader(audit: Storage) -> Read:
    def read(name: str) -> bytes:
        if audit.version(name) is None:
            raise FileNotFoundError(name)
        return audit.read(name)

    return read
