"""Tiny inputs of the forms that the recipes by domain read, laid out as their comments say."""

from __future__ import annotations

import gzip
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

WORDS = {
    "en": "the captain of a ship had never seen this harbour before and he walked slowly along with his hands in "
    "an old coat people who stood there looked at him because they knew that she had left some letter behind",
    "fr": "le capitaine du navire n'avait jamais vu ce port et il marchait lentement sur les quais avec son "
    "vieux manteau gens qui se tenaient là regardaient parce que la femme avait laissé la lettre dans cette maison",
    "de": "der Kapitän des Schiffes hatte diesen Hafen noch nie gesehen und er ging langsam am Ufer entlang mit seinem "
    "alten Mantel die Leute standen dort sahen ihn an denn sie wussten dass eine Frau den Brief für ihn gelassen hatte",
    "hi": "एक गाँव में बच्चे रहते थे और वे हर सुबह नदी के किनारे खेलने जाते थे फिर शाम को घर लौटते हैं उस दिन उन्होंने पेड़ पर "
    "चिड़िया देखी जो गाना गा रही थी माँ ने कहा कि यह बहुत सुंदर है",
}
SONG = "Row on, row on, the river said,\nrow on, row on, to me.\n"
TEI = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0" xml:lang="de"><teiHeader><fileDesc>
<titleStmt><title>Buch {book} : ELTeC ausgabe</title></titleStmt>
<sourceDesc><bibl><title>Buch {book}</title></bibl></sourceDesc></fileDesc></teiHeader>
<text><front><head>Vorwort</head></front><body><div type="chapter"><head>Erstes Kapitel</head>{body}
<p>Das Ende.<note>Eine Fußnote des Herausgebers.</note></p></div></body></text></TEI>"""
SECTION = """<?xml version='1.0' encoding='utf-8'?>
<section xmlns="https://code.dccouncil.us/schemas/dc-library">
  <num>1-{number}</num>
  <heading>Of boards {number}.</heading>
  {body}
  <annotations><annotation type="History">Feb. 26, 2015, D.C. Law 20-155</annotation></annotations>
</section>"""
PAIR = '<QAPair><Question qtype="{}">{}</Question><Answer>{}</Answer></QAPair>'
PAGE = """<!doctype html><html lang="en"><head><title>Page {0}</title></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About</a></li></ul></nav>
<article><h1>Page {0}</h1>{1}</article><footer>Copyright of the site, all rights reserved.</footer></body></html>"""
MODULE = '''"""Module {0}, of someone@example.org."""


def {1}(things):
    return len(things) + {0}


class Kept{0}:
    """{2}"""

    def get(self):
        return {1}([self])
'''


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def paragraphs(language: str, seed: int, count: int) -> list[str]:
    """Sentences of words in any order: no two paragraphs share a passage, and the language can be told."""
    rng = random.Random(f"{language} {seed}")
    end = "।" if language == "hi" else "."
    made = []
    for _ in range(count):
        words = rng.sample(WORDS[language].split(), 30)
        made.append(" ".join(" ".join(words[at : at + 10]).capitalize() + end for at in (0, 10, 20)))
    return made


def lay_out_books(data: Path) -> None:
    for book in range(4):
        chapter = "\n\n".join(paragraphs("en", book, 100))
        write(data / f"books-classic/A Writer/Book {book}.md", f"# Title: Book {book}\n\n## CHAPTER I\n\n{chapter}\n")
        write(data / f"books-eltec-fra/plain1/FRA0{book}_Nom.txt", "\n".join(paragraphs("fr", book, 60)))
        body = "".join(f"<p>{text}<pb/></p>" for text in paragraphs("de", book, 60))
        write(data / f"books-eltec-deu/level1/DEU0{book}.xml", TEI.format(book=book, body=body))
    # Of form, not of prose: verse with a refrain, and a play.
    verses = [SONG + "\n".join(text.split(". ")) for text in paragraphs("en", 10, 40)]
    write(data / "books-classic/A Writer/Verse.md", "# Title: Verse\n\n" + "\n\n".join(verses))
    speeches = [f"**Lady Anne:** {text[:60]}..." for text in paragraphs("en", 11, 60)]
    write(data / "books-classic/A Writer/Play.md", "# Title: Play\n\n" + "\n\n".join(speeches))
    write(data / "books-classic/SOURCE.txt", "name: not a book")
    write(data / "books-eltec-fra/README.txt", "not a novel")
    write(data / "books-eltec-deu/README.md", "not a novel")


def lay_out_law(data: Path) -> None:
    folder = data / "dc-code/us/titles/1"
    for number, (first, second) in enumerate(zip(paragraphs("en", 20, 30), paragraphs("en", 21, 30), strict=True)):
        body = f"<para><num>(a)</num>\n<text>{first}</text></para><para><num>(b)</num>\n<text>{second}</text></para>"
        write(folder / f"sections/1-{number}.xml", SECTION.format(number=number, body=body))
    short = "<text>The fee for a stall on the market is $15 a day.</text>"
    write(folder / "sections/1-90.xml", SECTION.format(number=90, body=short))
    repealed = "<reason>Repealed</reason><text>Repealed.</text>"
    write(folder / "sections/1-91.xml", SECTION.format(number=91, body=repealed))
    write(folder / "index.xml", "<container><prefix>Title</prefix><num>1</num></container>")
    write(data / "dc-code/SOURCE.txt", "name: not law")


def lay_out_medicine(data: Path) -> None:
    inherited = "It is inherited in a recessive pattern, which means that both copies of the gene have mutations."
    links = "These resources address the diagnosis or management of it: - Gene Review - Registry"
    for number, text in enumerate(paragraphs("en", 30, 30)):
        name = f"Disease {number}"
        pairs = [
            PAIR.format("information", f"What is (are) {name} ?", text),
            PAIR.format("outlook", f"What is the outlook for {name} ?", ""),
            PAIR.format("inheritance", f"Is {name} inherited ?", inherited),
            PAIR.format("treatment", f"What helps against {name} ?", links),
        ]
        page = f"<Focus>{name}</Focus><QAPairs>{''.join(pairs)}</QAPairs>"
        write(data / f"medquad/1_QA/{number:04}.xml", f'<Document url="https://example.org/{number}">{page}</Document>')
    write(data / "medquad/LICENSE.txt", "CC BY 4.0")


def lay_out_multilingual(data: Path) -> None:
    lay_out_books(data)
    for number in range(12):
        for language in ("hi", "en"):
            pages = "".join(f"\n##\n{text}\n" for text in paragraphs(language, 40 + number, 6))
            credits = "* License: [CC-BY]\n* Text: A Writer\n"
            story = f"# Story {number}\n{pages}\n##\n{SONG * 3}\n##\n{credits}"
            write(data / f"pratham-stories/{language}/{number:04}_story.md", story)
    corpora = data / "nltk-open/packages/corpora"
    corpora.mkdir(parents=True)
    with zipfile.ZipFile(corpora / "udhr2.zip", "w") as archive:
        archive.writestr("udhr2/fra.txt", "\n".join(paragraphs("fr", 60, 4)))
        archive.writestr("udhr2/deu.txt", "\n".join(paragraphs("de", 61, 4)))


def lay_out_code(data: Path) -> None:
    licence = Path(__file__).parents[2] / "LICENSE"
    write(data / "code/LICENSE", licence.read_text(encoding="utf-8"))
    for number, text in enumerate(paragraphs("en", 70, 30)):
        name = "_".join(text.lower().replace(".", "").split()[:6])
        write(data / f"code/package/module_{number}.py", MODULE.format(number, name, text))
    write(data / "code/package/numbers.py", "VALUES = [\n" + "    1000000, 2000000, 3000000,\n" * 30 + "]\n")
    write(data / "code/README.md", "# Not code\n\nOnly prose about it.\n")


def lay_out_web(data: Path) -> None:
    records = []
    for number in range(8):
        html = PAGE.format(number, "".join(f"<p>{text}</p>" for text in paragraphs("en", 80 + number, 5)))
        body = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html}".encode()
        header = (
            "WARC/1.0\r\nWARC-Type: response\r\n"
            f"WARC-Target-URI: https://example.org/{number}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        records.append(gzip.compress(header.encode() + body + b"\r\n\r\n"))
    (data / "cc-warc-sample").mkdir(parents=True)
    (data / "cc-warc-sample/sample.warc.gz").write_bytes(b"".join(records))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "books": lay_out_books,
    "law": lay_out_law,
    "medicine": lay_out_medicine,
    "code": lay_out_code,
    "multilingual": lay_out_multilingual,
    "web": lay_out_web,
}
