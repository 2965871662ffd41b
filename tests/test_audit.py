"""What a sealed batch proves, and that no change of it goes unseen."""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deid import cli
from deid.audit.keys import AuditKey, SecretKey, key_from_environment, parse_key
from deid.audit.seal import (
    AUDIT_FILES,
    LEDGER,
    MANIFEST,
    SEAL,
    publishable,
    seal,
    times_of,
    verify,
)
from deid.audit.summary import HTML, SUMMARY, WORST
from deid.errors import DeidError

KEY = SecretKey(b"k" * 32)
Files = dict[str, bytes]


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def face(similarity: float | None, method: str = "swap", level: int = 1) -> dict[str, Any]:
    masked = similarity is None
    return {
        "box": [10, 10, 50, 50],
        "score": 0.9,
        "method": "mask" if masked else method,
        "verdict": "masked" if masked else "verified",
        "similarities": {} if masked else {"judge": similarity},
        "failures": [],
        "level": level,
        "found": "detector",
    }


def batch(count: int = 6) -> tuple[list[dict[str, Any]], Files]:
    """Records of `count` written files and one not written, and the outputs."""
    outputs = {f"deep/{i}.png": picture(i) for i in range(count)}
    records = [
        {
            "file": name,
            "status": "written",
            "output": name,
            "output_sha256": hashlib.sha256(data).hexdigest(),
            "thresholds": {"judge": 0.5},
            "faces": [face(i / 20), *([face(None, level=4)] if i % 3 == 0 else [])],
            "method": "swap",
            "model": "m" * 64,
            "time": f"2026-01-01T00:00:{i:02d}+00:00",
        }
        for i, (name, data) in enumerate(outputs.items())
    ]
    records.append({"file": "bad.jpg", "status": "quarantined", "reason": "half", "faces": []})
    return records, outputs


def sealed(key: AuditKey | None = KEY, count: int = 6) -> Files:
    records, outputs = batch(count)
    return {**outputs, **seal(records, outputs.__getitem__, key)}


def problems(files: Files, key: AuditKey | None = KEY) -> list[str]:
    def read(name: str) -> bytes:
        if name not in files:
            raise FileNotFoundError(2, "no such file", name)
        return files[name]

    return verify(read, files, key)


# ---- tampering


def test_an_untouched_batch_has_no_problem() -> None:
    assert problems(sealed()) == []
    assert problems(sealed(None), None) == []
    empty = seal([], dict[str, bytes]().__getitem__, KEY)
    assert problems(empty) == []


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _edit(files: Files) -> None:
    files[MANIFEST] = files[MANIFEST].replace(b'"swap"', b'"blur"', 1)


def _swap_order(files: Files) -> None:
    for name in (MANIFEST, LEDGER):
        a, b, *rest = lines(files[name])
        files[name] = b"".join([b, a, *rest])


def _drop_last(files: Files) -> None:
    for name in (MANIFEST, LEDGER):
        files[name] = b"".join(lines(files[name])[:-1])


def _drop_first_with_output(files: Files) -> None:
    record = json.loads(lines(files[MANIFEST])[1])
    for name in (MANIFEST, LEDGER):
        rows = lines(files[name])
        files[name] = b"".join(rows[:1] + rows[2:])
    del files[record["output"]]


def _add(files: Files) -> None:
    files[MANIFEST] += lines(files[MANIFEST])[-1]


def _change_time(files: Files) -> None:
    files[LEDGER] = files[LEDGER].replace(b"2026-01-01", b"2025-01-01", 1)


def _flip_output(files: Files) -> None:
    files["deep/2.png"] = files["deep/2.png"][:-1] + b"\x00"


def _remove_output(files: Files) -> None:
    del files["deep/2.png"]


def _extra_output(files: Files) -> None:
    files["deep/original.png"] = b"the original"


def _summary(files: Files) -> None:
    files[SUMMARY] = files[SUMMARY].replace(b'"masked": 2', b'"masked": 0')


def _page(files: Files) -> None:
    files[HTML] += b" "


def _strip_signature(files: Files) -> None:
    body = json.loads(files[SEAL])
    files[SEAL] = json.dumps({**body, "algorithm": "none", "key": "", "signature": ""}).encode()


def _reseal_without_key(files: Files) -> None:
    records, outputs = batch()
    files |= seal(records[1:], outputs.__getitem__, None)


def _reseal_with_another_key(files: Files) -> None:
    records, outputs = batch()
    del files["deep/0.png"]
    files |= seal(records[1:], outputs.__getitem__, SecretKey(b"x" * 32))


def _forge_hashes_all_the_way(files: Files) -> None:
    """Everything made to agree but the signature, which needs the key."""
    records, outputs = batch()
    records[0]["faces"] = []
    forged = seal(records, outputs.__getitem__, None)
    body = json.loads(files[SEAL])
    body["sha256"] = json.loads(forged[SEAL])["sha256"]
    files |= {**forged, SEAL: json.dumps(body).encode()}


def _lose_seal(files: Files) -> None:
    del files[SEAL]


def _garbage(files: Files) -> None:
    files[MANIFEST] = b"\xff\xfe{" + files[MANIFEST]


def _old_seal(files: Files) -> None:
    """The seal of an earlier, smaller batch of the same key."""
    files[SEAL] = sealed(count=3)[SEAL]


TAMPERINGS = [
    *(_edit, _swap_order, _drop_last, _drop_first_with_output, _add, _change_time, _flip_output),
    *(_remove_output, _extra_output, _summary, _page, _strip_signature, _reseal_without_key),
    *(_reseal_with_another_key, _forge_hashes_all_the_way, _lose_seal, _garbage, _old_seal),
]


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda f: f.__name__.strip("_"))
def test_every_change_is_found(tamper: Any) -> None:
    files = sealed()
    tamper(files)
    assert files != sealed(), "the tampering did nothing"
    assert problems(files)


@settings(max_examples=150)
@given(data=st.data())
def test_no_single_changed_byte_of_the_records_or_outputs_goes_unseen(data: st.DataObject) -> None:
    files = _UNTOUCHED.copy()
    name = data.draw(st.sampled_from(sorted(files)))
    place = data.draw(st.integers(0, len(files[name]) - 1))
    byte = data.draw(st.integers(1, 255))
    changed = bytearray(files[name])
    changed[place] ^= byte
    files[name] = bytes(changed)
    # The seal may be written with other white space: what it says is what is signed.
    if name == SEAL and _says(files[name]) == _says(_UNTOUCHED[name]):
        return
    assert problems(files)


def _says(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


_UNTOUCHED = sealed()


def test_the_changed_record_is_named() -> None:
    files = sealed()
    files[MANIFEST] = files[MANIFEST].replace(b'"judge": 0.1}', b'"judge": 0.0}')
    assert any("deep/2.png" in problem for problem in problems(files))
    assert not any("deep/3.png" in problem for problem in problems(files))


def test_a_signed_batch_is_not_trusted_without_its_key_and_an_unsigned_one_not_with_one() -> None:
    assert "give that key" in problems(sealed(), None)[0]
    assert "not signed" in problems(sealed(None), KEY)[0]
    assert "not by the one given" in problems(sealed(), SecretKey(b"y" * 32))[0]


# ---- keys


def ed25519() -> tuple[AuditKey, AuditKey]:
    """The same key twice: with its private half, and the public one alone."""
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return parse_key(pem, "test"), parse_key(public, "test")


def test_the_public_half_of_a_key_checks_and_cannot_sign() -> None:
    private, public = ed25519()
    files = sealed(private)
    assert problems(files, public) == []
    assert problems(files, private) == []
    assert problems(files, ed25519()[1])
    _edit(files)
    assert problems(files, public)
    with pytest.raises(DeidError, match="cannot sign"):
        sealed(public)


def test_keys_come_from_the_environment_and_are_not_shown(tmp_path: Path) -> None:
    secret = "s3cret" * 8
    file = tmp_path / "key"
    file.write_text(secret + "\n")
    keys = [
        key_from_environment({"DEID_AUDIT_KEY": secret}),
        key_from_environment({"DEID_AUDIT_KEY_FILE": str(file)}),
    ]
    assert keys[0] == keys[1]
    assert keys[0] is not None
    assert secret not in repr(keys)
    assert secret not in keys[0].identity
    assert key_from_environment({}) is None
    wrong = [
        ({"DEID_AUDIT_KEY": "short"}, "too short"),
        ({"DEID_AUDIT_KEY": secret, "DEID_AUDIT_KEY_FILE": str(file)}, "unset one"),
        ({"DEID_AUDIT_KEY_FILE": str(tmp_path / "none")}, "none"),
        ({"DEID_AUDIT_KEY": "-----BEGIN PRIVATE KEY-----\nabc"}, "openssl genpkey"),
    ]
    for environment, said in wrong:
        with pytest.raises(DeidError, match=said) as raised:
            key_from_environment(environment)
        assert secret not in str(raised.value)


# ---- what is told and what is not


def test_the_same_records_give_the_same_bytes_whenever_they_were_made() -> None:
    records, outputs = batch()
    later = [{**record, "time": "2027-05-05T00:00:00+00:00"} for record in reversed(records)]
    first, second = (seal(r, outputs.__getitem__, KEY) for r in (records, later))
    assert [name for name in first if first[name] != second[name]] == [LEDGER, SEAL]
    assert b"2026-" not in first[MANIFEST] + first[SUMMARY] + first[HTML]
    assert first[LEDGER].count(b'"time": "2026-01-01') == 6


def test_times_come_back_to_a_batch_that_goes_on() -> None:
    records, outputs = batch()
    first = seal(records, outputs.__getitem__, KEY)
    times = times_of(first[LEDGER])
    public = map(json.loads, lines(first[MANIFEST]))
    again = [{"time": times[record["file"]], **record} for record in public]
    assert seal(again, outputs.__getitem__, KEY) == first


def test_no_path_vector_or_data_gets_into_the_records() -> None:
    told = publishable(
        {
            "file": "a b/ü.png",
            "output": "/home/someone/a.png",
            "reason": "cannot read /home/someone/photos/a.png: s3://bucket/private/x is gone",
            "embedding": [0.1] * 128,
            "faces": [{"box": [1, 2, 3, 4], "vector": tuple([1.0] * 9), "crop": b"pixels"}],
            "text": "x" * 5000,
            "windows": r"C:\Users\someone\a.png",
            "worst": float("nan"),
        }
    )
    text = json.dumps(told)
    assert "someone" not in text
    assert "bucket" not in text
    assert "pixels" not in text
    assert "1.0, 1.0" not in text
    assert len(text) < 1500
    assert told["file"] == "a b/ü.png"
    assert re.fullmatch(r"\(path [0-9a-f]{12}\)", told["output"])
    assert told["faces"][0]["box"] == [1, 2, 3, 4]
    assert told["embedding"] == []
    assert told["worst"] is None


def test_the_summary_counts_and_shows_the_worst_outputs_first() -> None:
    files = sealed(count=30)
    told = json.loads(files[SUMMARY])
    assert told["files"] == {"total": 31, "quarantined": 1, "written": 30, "skipped": 0}
    assert told["faces"]["total"] == 40
    assert told["faces"]["masked"] == 10
    assert {row["method"]: row["share"] for row in told["methods"]} == {"swap": 0.75, "mask": 0.25}
    assert sum(row["share"] for row in told["levels"]) == pytest.approx(1.0)
    assert told["verdicts"] == {"masked": 10, "verified": 20}
    margins = [case["margin"] for case in told["worst"]]
    assert len(margins) == WORST
    assert margins == sorted(margins, reverse=True)
    assert told["worst"][0]["file"] == "deep/29.png"
    assert told["judges"]["judge"]["highest"] == pytest.approx(1.45)
    assert told["withheld"] == [{"file": "bad.jpg", "reason": "half"}]


def test_faces_kept_by_request_are_counted_as_such_and_not_as_verified() -> None:
    records, outputs = batch(3)
    for record in records[1:3]:
        record["faces"] = [face(0.1) | {"verdict": "kept", "method": "kept", "similarities": {}}]
    files = seal(records, outputs.__getitem__, KEY)
    told = json.loads(files[SUMMARY])
    assert told["faces"]["kept"] == 2
    assert told["faces"]["verified"] == 1
    assert told["verdicts"] == {"kept": 2, "masked": 1}
    assert b"2 stayed as they were, by request" in files[HTML]
    assert b"kept by request" not in sealed()[HTML]


def test_the_page_is_whole_in_itself_and_escapes_names() -> None:
    records, outputs = batch()
    records[-1]["file"] = "<script>alert(1)</script>.jpg"
    page = seal(records, outputs.__getitem__, KEY)[HTML].decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "http://" not in page
    assert "https://" not in page
    shown = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(shown) == 6


def test_a_picture_that_cannot_be_shown_does_not_stop_the_seal() -> None:
    records, outputs = batch()
    outputs["deep/5.png"] = b"no picture"

    def read(name: str) -> bytes:
        if name == "deep/4.png":
            raise OSError("gone")
        return outputs[name]

    assert set(seal(records, read, None)) == set(AUDIT_FILES)


# ---- the command


def deid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["deid", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return (ended.value.code if isinstance(ended.value.code, int) else 0), said.out + said.err


def test_the_command_tells_a_changed_batch_from_an_unchanged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in sealed().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.setenv("DEID_AUDIT_KEY", "k" * 32)
    assert deid(monkeypatch, capsys, "audit", "verify", str(tmp_path)) == (
        0,
        f"{tmp_path}: unchanged since it was signed\n",
    )
    (tmp_path / "deep/1.png").write_bytes(picture(9))
    code, said = deid(monkeypatch, capsys, "audit", "verify", str(tmp_path))
    assert code == 1
    assert "deep/1.png: changed" in said
    monkeypatch.delenv("DEID_AUDIT_KEY")
    code, said = deid(monkeypatch, capsys, "audit", "verify", str(tmp_path / "deep"))
    assert code == 1
    assert "no seal.json" in said
