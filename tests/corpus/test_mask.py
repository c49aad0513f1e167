"""Masks hide what is personal and leave years, amounts, ISBNs, versions and times alone."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lmcraft.corpus.documents import SCHEMA
from lmcraft.corpus.mask import Mask, mask, mask_email, mask_ip, mask_phone


@pytest.mark.parametrize(
    "number",
    [
        "+33 1 23 45 67 89",
        "+34 612 345 678",
        "+1 (212) 555-0123",
        "+41 (0)69 979 80 58",
        "+447700677662",
        "(212) 555-0123",
        "212-555-0123",
        "1-800-555-0199 x123",
        "01 23 45 67 89",
        "01.23.45.67.89",
        "0341 8387176",
        "(03) 5327 5996",
    ],
)
def test_phone_numbers_are_masked(number: str) -> None:
    assert mask_phone(f"Call {number}, or write.") == "Call <PHONE>, or write."


@pytest.mark.parametrize("text", ["Tel. 612 345 678", "teléfono: 612345678", "Appelez le 612 345 678", "phone 5551234"])
def test_plain_groups_are_masked_after_a_cue(text: str) -> None:
    assert mask_phone(text).endswith("<PHONE>")


@pytest.mark.parametrize(
    "text",
    [
        "From 1939-1945 and 1998–2003, on 2007-01-09, 01.02.2003 and 01/02/2003.",
        "Inventor of the telephone (1847–1922)",
        "ISBN 0-19-853453-1, ISBN 978-0-262-03561-3, ISBN 0262035618, ISSN 0317-8471",
        "643 801 000 habitants, 612 345 678 personnes, 1 234 567 890 pesetas, 12.345.678,90 and 1,234,567,890",
        "an increase of +12 500 000 people",
        "299792458 m/s, 3.14159265358979, 6.02214076e23, 149597870.7 km, 37.7749 -122.4194",
        "doi 10.1038/nature12373 and version 2.10.3.4512",
        "social security 012-52-7174",
    ],
)
def test_other_numbers_are_not_phones(text: str) -> None:
    assert mask_phone(text) == text


def test_email_addresses_are_masked() -> None:
    text = "ana.lópez+x@mail.example.co.uk, <b@c.org>. Not a@b, @handle, or 3@4.5"
    assert mask_email(text) == "<EMAIL>, <<EMAIL>>. Not a@b, @handle, or 3@4.5"


@pytest.mark.parametrize("address", ["8.8.8.8 is 192.168.10.1", "2001:db8::1", "fe80:0:0:0:202:b3ff:fe1e:8329"])
def test_ip_addresses_are_masked(address: str) -> None:
    assert "<IP>" in mask_ip(f"From {address}.")


@pytest.mark.parametrize(
    "text",
    ["version 1.2.30.4", "v10.0.19.1", "3.1.1.6", "256.1.1.300", "12:30:45", "std::vector", "ab::cd", "127.0.0.1"],
)
def test_versions_times_and_code_are_not_addresses(text: str) -> None:
    assert mask_ip(text) == text


def test_changes_are_noted_by_kind_and_in_every_column() -> None:
    row = {"id": "0", "text": "a@b.org and c@d.org", "description": "tel 212-555-0123", "source": "s", "path": "p"}
    batch = pa.RecordBatch.from_pylist(
        [row | {"changes": ["repaired"]}, row | {"text": "fine", "description": None}], SCHEMA
    )
    done = mask(batch, Mask()).batch.to_pylist()
    assert done[0]["text"] == "<EMAIL> and <EMAIL>"
    assert done[0]["description"] == "tel <PHONE>"
    assert done[0]["changes"] == ["repaired", "masked email", "masked phone"]
    assert done[1]["changes"] == []
    assert mask(batch, Mask(kinds=["phone"])).batch.to_pylist()[0]["text"] == row["text"]
