"""Text in another encoding is read when that is sure, noted, and never guessed into nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest
from reading import file, one_fault, read, records

from lmcraft.recipe.stage import UserError

FRENCH = (
    "Le soir était tombé sur la forêt et les élèves étaient déjà rentrés à l'école où le maître, âgé, les attendait. "
    "Après le dîner, le père raconta une très vieille légende où un chevalier, blessé à la tête, cherchait sa fiancée. "
    "Les fenêtres étaient fermées, la neige tombait sans bruit, et personne n'osait interrompre le récit du vieillard. "
)
RUSSIAN = (
    "Вечером над рекой стоял туман, и рыбаки возвращались домой с небогатым уловом. В доме топилась печь, дети сидели "
    "у окна и слушали, как бабушка рассказывает старую сказку о том, как солдат обманул царя и получил полцарства. "
)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH * 3, "utf-16"),
        (RUSSIAN, "utf-16-be"),
        (RUSSIAN, "utf-32"),
        (FRENCH * 3, "cp1252"),
        (RUSSIAN * 3, "cp1251"),
    ],
)
def test_a_byte_order_mark_or_clear_evidence_decides(tmp_path: Path, text: str, encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (found,) = records(read(file(tmp_path, "a.txt", mark + text.encode(encoding))))
    assert found.text == text
    assert (found.note or "").startswith("decoded from ")


def test_what_the_user_says_is_believed_and_checked(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", "Äpfel".encode("cp437"))
    (found,) = records(read(path, encoding="cp437"))
    assert (found.text, found.note) == ("Äpfel", "decoded from cp437")
    assert one_fault(read(file(tmp_path, "b.txt", FRENCH.encode("cp1252")), encoding="utf-8")).reason == "invalid UTF-8"
    assert one_fault(read(path, encoding="ascii")).reason == "undecodable text"
    with pytest.raises(UserError, match="no known encoding"):
        read(path, encoding="utf-nine")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"caf\xe9 au lait", id="too short to tell"),
        pytest.param((FRENCH * 3).encode() + b" caf\xe9 " + FRENCH.encode(), id="UTF-8 with one bad byte"),
        pytest.param(bytes(range(128, 256)) * 20, id="bytes of no language"),
    ],
)
def test_a_guess_that_is_not_sure_is_a_fault(tmp_path: Path, content: bytes) -> None:
    assert one_fault(read(file(tmp_path, "a.txt", content))).reason == "invalid UTF-8"


def test_every_file_of_a_folder_of_mixed_encodings_stands_for_itself(tmp_path: Path) -> None:
    contents = [FRENCH.encode(), (FRENCH * 3).encode("cp1252"), FRENCH.encode("utf-16"), b"\xe9"]
    items = [read(file(tmp_path, f"{number}.txt", content)) for number, content in enumerate(contents)]
    assert [len(records(item)) for item in items] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("content", "text", "note"),
    [
        ('<meta charset="iso-8859-1">“café”'.encode("cp1252"), "“café”", "decoded from cp1252"),
        ("<meta charset=utf-8>café".encode(), "café", None),
        ('<?xml version="1.0" encoding="koi8-r"?><p>дом'.encode("koi8-r"), "дом", "decoded from koi8-r"),
        ("\ufeff<p>café".encode("utf-16"), "café", "decoded from utf-16"),
        (b"<meta charset=utf-8><p>" + b"good words " * 200 + b"caf\xe9", "caf\ufffd", "bad bytes replaced"),
        (("<p>" + RUSSIAN * 3).encode("cp1251"), RUSSIAN, "decoded from cp1251"),
        (b"<meta charset=utf-16><p>plain", "plain", None),
        (b"<meta charset=no-such-thing><p>plain", "plain", None),
    ],
)
def test_a_page_is_decoded_as_it_declares(tmp_path: Path, content: bytes, text: str, note: str | None) -> None:
    (found,) = records(read(file(tmp_path, "a.html", content)))
    assert text in found.text
    assert found.format == "html"
    assert found.note == note if note is None else note in (found.note or "")


def test_pages_of_nothing_and_of_bytes_are_faults(tmp_path: Path) -> None:
    assert one_fault(read(file(tmp_path, "a.html", b" \n"))).reason == "empty text"
    assert one_fault(read(file(tmp_path, "b.htm", b"<p>" + b"\0" * 100))).reason == "binary file"
