"""Masks hide what is personal and leave years, amounts, ISBNs, versions and times alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lmcraft.corpus.documents import SCHEMA
from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.mask import Mask, check_model, mask
from lmcraft.corpus.steps.personal_data import KINDS, Kind, find, replaced
from lmcraft.recipe.stage import Runtime, UserError


def masked(text: str, *kinds: Kind) -> str:
    return replaced(text, find(text, kinds or KINDS), lambda span: f"<{span.kind.upper()}>")


def mask_phone(text: str) -> str:
    return masked(text, "phone")


def mask_email(text: str) -> str:
    return masked(text, "email")


def mask_ip(text: str) -> str:
    return masked(text, "ip")


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
    done = mask(batch, Mask(), Known()).batch.to_pylist()
    assert done[0]["text"] == "<EMAIL> and <EMAIL>"
    assert done[0]["description"] == "tel <PHONE>"
    assert done[0]["changes"] == ["repaired", "masked email", "masked phone"]
    assert not done[1]["changes"]
    assert mask(batch, Mask(kinds=["phone"]), Known()).batch.to_pylist()[0]["text"] == row["text"]


@pytest.mark.parametrize(
    "number",
    ["(85) 5986-8343", "001-748-088-2851x818", "(790)091-7442", "25-62-29-72", "833.719.3994x1887", "(32) 484-557"],
)
def test_forms_that_only_phones_have_need_no_cue(number: str) -> None:
    assert mask_phone(f"Nobody at {number} today.") == "Nobody at <PHONE> today."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("They are not answering at 785 8949", "They are not answering at <PHONE>"),
        ("42 Oak Lane\n9885 1152 office\n", "42 Oak Lane\n<PHONE> office\n"),
        ("Desk: 5403926876", "Desk: <PHONE>"),
        ("a call on 1 200 000 people", "a call on 1 200 000 people"),
        ("1 234 567 office workers", "1 234 567 office workers"),
    ],
)
def test_words_beside_a_number_decide(text: str, left: str) -> None:
    assert mask_phone(text) == left


def documents(texts: list[str | None]) -> pa.RecordBatch:
    rows = [
        {"id": str(index), "text": text, "source": "s", "path": "p", "changes": []} for index, text in enumerate(texts)
    ]
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


FILLER = "Long prose of years 1914-1918, of 12,500 men, and of nothing that is anybody's. " * 40
PERSONAL = [
    "Ring +33 1 23 45 67 89 – «ça va»", "a@b.org", "from 10.1.2.33 at 12:30:45", "card 4111 1111 1111 1111",
    "GB82 WEST 1234 5698 7654 32", "ssn 536-90-4399", "AKIAIOSFODNN7EXAMPLQ", 'password = "hunter2horse9"',
    "postgres://user:p4ssw0rdX@db.example/x", "2001:db8::1", "CPF 529.982.247-25", "12345678Z",
    "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow" * 400 + "\n-----END RSA PRIVATE KEY-----",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0" * 30 + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
]  # fmt: skip


def test_looking_only_around_anchors_finds_what_looking_everywhere_finds() -> None:
    kinds: list[Kind] = [kind for kind in KINDS if kind not in ("name", "address")]
    random = np.random.default_rng(0)
    texts = []
    for _ in range(60):
        parts = []
        for index in random.integers(0, len(PERSONAL), 6):
            parts += [PERSONAL[index], ("é" if index % 2 else " ") + FILLER[: random.integers(0, len(FILLER))]]
        texts.append("Ω" * int(random.integers(0, 3)) + " ".join(parts))
    done = mask(documents(texts), Mask(kinds=kinds), Known()).batch["text"].to_pylist()
    assert done == [masked(text, *kinds) for text in texts]
    assert all("<" in text for text in done)


def test_slices_and_single_rows_give_the_same() -> None:
    batch = documents([*PERSONAL, FILLER, "", *PERSONAL])
    whole = mask(batch, Mask(), Known()).batch.to_pylist()
    assert [mask(batch.slice(row, 1), Mask(), Known()).batch.to_pylist()[0] for row in range(len(whole))] == whole


def test_nothing_is_kept_unless_it_should_be_reversible() -> None:
    texts = ["Write to a@b.org, c@d.org or A@B.org; call 212-555-0123", "clean"]
    assert not mask(documents(texts), Mask(), Known()).aside
    done = mask(documents(texts), Mask(reversible=True, numbered=True), Known())
    assert done.batch["text"].to_pylist() == ["Write to <EMAIL_1>, <EMAIL_2> or <EMAIL_1>; call <PHONE_1>", "clean"]
    text = done.batch["text"][0].as_py()
    rows = done.aside["personal-data"].to_pylist()
    for row in reversed(rows):
        assert text[row["start"] :].startswith(row["placeholder"])
        text = text[: row["start"]] + row["original"] + text[row["start"] + len(row["placeholder"]) :]
    assert text == texts[0]
    assert [(row["id"], row["column"], row["number"], row["kind"]) for row in rows] == [
        ("0", "text", 1, "email"),
        ("0", "text", 2, "email"),
        ("0", "text", 3, "email"),
        ("0", "text", 4, "phone"),
    ]
    assert mask(documents(["clean"]), Mask(reversible=True), Known()).aside["personal-data"].num_rows == 0


def test_names_need_a_model_that_is_there() -> None:
    with pytest.raises(ValueError, match="need a model"):
        Mask(kinds=["name"])
    with pytest.raises(ValueError, match="model"):
        Mask(kinds=["name"], model="../somewhere")
    config = Mask(kinds=["name"], model="no_such_model")
    with pytest.raises(UserError, match=r"no_such_model.*install"):
        check_model(config, {}, Runtime())
