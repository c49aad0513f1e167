"""Archives are read in place: no name leads out of them, no link is followed, no bomb goes off, no damage is silent."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from reading import brief, file, one_fault, read, records

from lmcraft.corpus.readers.streams import Expansion
from lmcraft.recipe.stage import UserError

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.xz": lzma.compress,
    ".tar.bz2": bz2.compress,
    ".tar.zst": zstandard.compress,
}


def tar_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def parquet_of(texts: list[str]) -> bytes:
    packed = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), packed)
    return packed.getvalue()


@pytest.mark.parametrize("ending", [".zip", ".tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_have_places_of_their_own(ending: str, tmp_path: Path) -> None:
    names = ["x.txt", "x.txt", "./x.txt", "x (2).txt", "d/x.jsonl.gz", "d/x.jsonl.gz"]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") if ending == ".zip" else tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            content = gzip.compress(b'{"text": "same"}\n') if name.endswith(".gz") else b"same"
            if isinstance(archive, zipfile.ZipFile):
                archive.writestr(name, content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    found = [record.place for record in records(read(file(tmp_path, f"a{ending}", packed.getvalue())))]
    assert [place.partition("!")[2].removesuffix(":1") for place in found] == [
        "x.txt", "x (2).txt", "x (3).txt", "x (2) (2).txt", "d/x.jsonl.gz", "d/x (2).jsonl.gz",
    ]  # fmt: skip


MEMBERS = {
    "./a.txt": b"one",
    "deep/b.jsonl": b'{"text": "two"}\n\n{"text": "three"}\n',
    "deep/c.parquet": parquet_of(["four"]),
    "d.jsonl.gz": gzip.compress(b'{"text": "five"}\n'),
    "e.bin": b"\0\1",
}


@pytest.mark.parametrize("ending", [*PACK, ".zip"])
def test_members_of_every_format_are_read_where_they_lie(tmp_path: Path, ending: str) -> None:
    content = zip_of(MEMBERS) if ending == ".zip" else PACK[ending](tar_of(MEMBERS))
    name = f"x{ending}"
    items = read(file(tmp_path, name, content))
    assert brief(items) == [
        (f"{name}!a.txt", "one"),
        (f"{name}!deep/b.jsonl:1", "two"),
        (f"{name}!deep/b.jsonl:3", "three"),
        (f"{name}!deep/c.parquet:1", "four"),
        (f"{name}!d.jsonl.gz:1", "five"),
        (f"{name}!e.bin", "unknown format"),
    ]
    assert records(items)[2].offset == 17
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_members_are_chosen_by_their_pattern_and_code_only_when_asked_for(tmp_path: Path) -> None:
    path = file(tmp_path, "x.tar", tar_of({"a.txt": b"one", "b/c.py": b"x = 1\n"}))
    assert brief(read(path, members="**/*.txt")) == [("x.tar!a.txt", "one")]
    assert [item.format for item in records(read(path, members="**/*.py"))] == ["code"]
    assert one_fault(read(path)).reason == "unknown format"
    assert one_fault(read(path, members="**/*.md")).reason == "no such file in the archive"


@pytest.mark.parametrize("name", ["../up.txt", "a/../../up.txt", "/etc/up.txt", "C:/up.txt", "..\\up.txt"])
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_names_that_lead_out_are_refused(tmp_path: Path, make: Callable[[dict[str, bytes]], bytes], name: str) -> None:
    ending = "tar" if make is tar_of else "zip"
    items = read(file(tmp_path, f"x.{ending}", make({name: b"escaped", "a.txt": b"one"})))
    assert [reason for _, reason in brief(items)] == ["path leads out of the archive", "one"]


def test_links_devices_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, kind in (("a.txt", tarfile.SYMTYPE), ("b.txt", tarfile.LNKTYPE), ("c.txt", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("._d.txt"))
    reasons = [reason for _, reason in brief(read(file(tmp_path, "x.tar", packed.getvalue())))]
    assert reasons == ["link not followed", "link not followed", "not a regular file", "hidden file"]

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        info = zipfile.ZipInfo("a.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")
    assert one_fault(read(file(tmp_path, "x.zip", packed.getvalue()))).reason == "link not followed"


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_a_missing_column_inside_an_archive_is_still_the_users_mistake(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    ending = "tar" if make is tar_of else "zip"
    with pytest.raises(UserError, match="did you mean 'texte'"):
        read(file(tmp_path, f"x.{ending}", make({"a.csv": b"texte,id\none,1\n"})))


def test_a_name_that_is_not_utf8_is_spelt_out(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        info = tarfile.TarInfo("F\xfcchse.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"one"))
    assert brief(read(file(tmp_path, "x.tar", packed.getvalue()))) == [("x.tar!F\\xfcchse.txt", "one")]


def test_an_archive_within_an_archive_is_refused(tmp_path: Path) -> None:
    inner = zip_of({"a.txt": b"one"})
    items = read(file(tmp_path, "x.zip", zip_of({"inner.zip": inner, "inner.tar.gz": gzip.compress(tar_of({}))})))
    assert {reason for _, reason in brief(items)} == {"archive within an archive"}


SMALL = Expansion(ratio=50, free_bytes=100_000)


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip"])
def test_a_bomb_of_an_archive_ends_its_reading(tmp_path: Path, ending: str) -> None:
    noise = random.Random(1).randbytes(10_000).hex().encode()
    members = {"a.txt": b"one", "b.txt": noise, "c.txt": b"0" * 3_000_000, "d.txt": b"two"}
    content = zip_of(members) if ending == ".zip" else PACK[ending](tar_of(members))
    items = read(file(tmp_path, f"x{ending}", content), expansion=SMALL)
    found = one_fault(items)
    assert found.reason == "expands too far"
    assert found.value is not None
    assert found.threshold is not None
    assert 100_000 <= found.threshold < found.value
    assert "max_expansion" in found.detail
    if ending in (".tar.gz", ".zip"):  # the others unpack this little in one piece
        assert records(items)[0].text == "one"
    assert "two" not in [item.text for item in records(items)]
    assert len(records(read(tmp_path / f"x{ending}"))) == 4  # within the usual limits


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, zstandard.compress])
@pytest.mark.parametrize("inside", ["txt", "jsonl", "csv"])
def test_a_bomb_of_one_file_is_set_aside(tmp_path: Path, pack: Callable[[bytes], bytes], inside: str) -> None:
    ending = {gzip.compress: "gz", lzma.compress: "xz", bz2.compress: "bz2", zstandard.compress: "zst"}[pack]
    content = b"text\n" + b"0" * 20_000_000
    found = one_fault(read(file(tmp_path, f"a.{inside}.{ending}", pack(content)), expansion=SMALL)[-1:])
    assert found.reason == "expands too far"


def test_a_bomb_inside_an_archive_costs_only_itself(tmp_path: Path) -> None:
    members = {"a.txt.gz": gzip.compress(b"0" * 20_000_000), "b.txt": b"two"}
    assert brief(read(file(tmp_path, "x.tar", tar_of(members)), expansion=SMALL)) == [
        ("x.tar!a.txt.gz", "expands too far"),
        ("x.tar!b.txt", "two"),
    ]


@pytest.mark.parametrize("ending", PACK)
def test_a_cut_archive_gives_what_it_has_and_a_fault(tmp_path: Path, ending: str) -> None:
    members = {f"{number}.txt": random.Random(number).randbytes(3000).hex().encode() for number in range(200)}
    content = PACK[ending](tar_of(members))
    items = read(file(tmp_path, f"x{ending}", content[: len(content) // 2]))
    assert [item.place for item in records(items)] == [
        f"x{ending}!{number}.txt" for number in range(len(records(items)))
    ]
    faults = items[len(records(items)) :]
    assert faults
    assert {reason for _, reason in brief(faults)} <= {"damaged archive", "damaged compression"}
    if ending not in (".tar.bz2", ".tar.xz"):  # whose blocks are as large as this
        assert len(records(items)) > 10


@pytest.mark.parametrize("spoil", ["cut between members", "bad header"])
def test_a_tar_file_that_ends_without_its_end_is_a_fault(tmp_path: Path, spoil: str) -> None:
    """tarfile itself takes both for the end of the archive and says nothing."""
    content = tar_of({"a.txt": b"one", "b.txt": b"two", "c.txt": b"three"})
    if spoil == "bad header":
        content = content[:1024] + b"\x07" * 512 + content[1536:]
    else:
        content = content[:2048]
    items = read(file(tmp_path, "x.tar", content))
    assert items[-1] is one_fault(items)
    assert one_fault(items).reason == "damaged archive"
    assert records(items)[0].text == "one"


def test_a_damaged_member_of_a_zip_costs_itself(tmp_path: Path) -> None:
    members = {f"{number}.txt": random.Random(number).randbytes(500).hex().encode() for number in range(3)}
    content = bytearray(zip_of(members))
    second = content.index(b"1.txt") + 5 + 100
    content[second : second + 50] = bytes(50)
    items = read(file(tmp_path, "x.zip", bytes(content)))
    assert one_fault(items).place == "x.zip!1.txt"
    assert len(records(items)) == 2
    assert one_fault(read(file(tmp_path, "y.zip", bytes(content[:-40])))).reason == "damaged archive"
    assert one_fault(read(file(tmp_path, "z.zip", b"plainly not that"))).reason == "damaged archive"
