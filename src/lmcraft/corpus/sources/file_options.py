"""How the files of a source are read: settings that every kind of source that brings files shares."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from lmcraft.corpus.readers.cuts import cuts_of
from lmcraft.corpus.readers.encodings import known_encoding
from lmcraft.corpus.readers.files import Columns, Reading
from lmcraft.corpus.readers.streams import Cut, Expansion
from lmcraft.corpus.readers.xml_mapping import XmlMapping
from lmcraft.corpus.sources.source import Part, SourceConfig
from lmcraft.recipe.stage import Runtime, UserError


class FileOptions(SourceConfig):
    """What is to be known of files beyond their names."""

    pattern: str = Field(
        "**/*", description="Which files: `**/` any folders, `*` and `?` within a name, `{a,b}` either."
    )
    members: str = Field("**/*", description="Which files inside archives (zip, tar), likewise.")
    format: Literal["text", "lines", "markdown", "html", "code"] | None = Field(
        None, description="What the files are, whatever their names; null: the ending of the name says it."
    )
    encoding: str = Field(
        "auto", description="Encoding of text files; `auto`: UTF-8, else what a byte order mark or clear evidence says."
    )
    xml: XmlMapping | None = Field(None, description="Which elements of XML files are documents and text.")
    records: str | None = Field(
        None,
        pattern=r"^[^.]+(\.[^.]+)*$",
        description="Where records are inside JSON: names of fields, `*` for every element (`data.*.paragraphs.*`).",
    )
    quotes: bool | None = Field(
        None, description="Whether fields of tables may be quoted; null: in .csv they may, in .tsv not."
    )
    max_expansion: float = Field(
        300.0, gt=1, description="Compressed files that unpack to more times their size are set aside as bombs."
    )
    language: str | None = Field(None, description="Language of the texts, such as `en`; null: `curate` finds it.")
    text_column: str | list[str] = Field(
        "text", description="Field of JSON, Parquet, CSV that holds the text; of a list, the texts are joined by lines."
    )
    title_column: str | None = Field("title", description="Field of the title, used where it exists.")
    description_column: str | None = Field("description", description="Field of the short description.")
    language_column: str | None = Field("language", description="Field of the language; it goes before `language`.")
    topic_column: str | None = Field("topic", description="Field of the topic.")
    licence_column: str | None = Field("licence", description="Field of the licence; it goes before `licence`.")
    url_column: str | None = Field("url", description="Field of the address.")
    collected_at_column: str | None = Field(None, description="Field with the time of collection (ISO 8601).")

    @field_validator("text_column")
    @classmethod
    def _names_a_field(cls, names: str | list[str]) -> str | list[str]:
        if not names:
            raise ValueError("name at least one field")
        return names

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        if encoding != "auto":
            try:
                return known_encoding(encoding)
            except UserError as error:
                raise ValueError(str(error)) from error
        return encoding

    def columns(self) -> Columns:
        parts = ("title", "description", "language", "topic", "licence", "url", "collected_at")
        chosen = {part: getattr(self, f"{part}_column") for part in parts}
        named = {name for part, name in chosen.items() if name and f"{part}_column" in self.model_fields_set}
        text, *more = [self.text_column] if isinstance(self.text_column, str) else self.text_column
        return Columns(text=text, more_text=tuple(more), **chosen, required=frozenset(named))

    def parts_of(self, path: Path, name: str, runtime: Runtime) -> list[Part]:
        """A file, or the pieces that it is cut into when it is large."""
        size = path.stat().st_size
        cuts = cuts_of(path, name, self.reading(0, runtime))
        share = size / cuts[-1].end if cuts else 0
        return [Part(name, round((cut.end - cut.first) * share), path, cut) for cut in cuts] or [Part(name, size, path)]

    def reading(self, max_record_bytes: int, runtime: Runtime, cut: Cut | None = None) -> Reading:
        """What readers are told of these files."""
        return Reading(
            self.columns(),
            max_record_bytes,
            runtime.progress.note,
            encoding=self.encoding,
            format=self.format,
            xml=self.xml,
            records=tuple(self.records.split(".")) if self.records else (),
            pattern=self.pattern,
            members=self.members,
            quotes=self.quotes,
            expansion=Expansion(ratio=self.max_expansion),
            cut=cut,
        )
