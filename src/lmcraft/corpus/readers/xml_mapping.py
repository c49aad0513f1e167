"""Which elements of an XML file are documents, and which of their parts are what."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from lmcraft.recipe.stage import StageConfig

PATH = re.compile(r"/?[\w.*-]+(/[\w.*-]+)*(@[\w.-]+)?", re.ASCII)


class XmlMapping(StageConfig):
    """Element paths: `div/p` any `p` in a `div`, `/TEI/text` from the root, `Document@url` an attribute; `*` any name.

    Namespaces do not count. A field that the record itself lacks is taken from what stood before it in the file.
    """

    record: str | None = Field(None, description="Elements that are a document each; null: the whole file is one.")
    text: list[str] = Field(
        [], description="Elements inside the record whose text is taken, in order; none: all of it."
    )
    drop: list[str] = Field([], description="Elements left out of the text.")
    title: str | None = Field(None, description="Element or attribute of the title.")
    description: str | None = Field(None, description="Element or attribute of the short description.")
    language: str | None = Field(None, description="Element or attribute of the language.")
    topic: str | None = Field(None, description="Element or attribute of the topic.")
    url: str | None = Field(None, description="Element or attribute of the address.")
    collected_at: str | None = Field(None, description="Element or attribute with the time of collection (ISO 8601).")
    paragraphs: list[str] = Field(
        ["p", "para", "head", "heading", "title", "lg", "sp", "div", "section", "list", "table", "quote"],
        description="Elements that are paragraphs: a blank line before and after.",
    )
    lines: list[str] = Field(["l", "lb", "br", "item", "row", "label"], description="Elements on a line of their own.")
    keep_space: bool = Field(False, description="Keep white space as the file has it; else each run is one space.")

    @field_validator("record", "text", "drop", "title", "description", "language", "topic", "url", "collected_at")
    @classmethod
    def _are_paths(cls, value: str | list[str] | None) -> str | list[str] | None:
        for path in [value] if isinstance(value, str) else value or []:
            if not PATH.fullmatch(path):
                raise ValueError(f"{path!r} is not an element path such as `body/p`, `/TEI/text` or `Document@url`")
        return value

    @field_validator("record", "text", "drop")
    @classmethod
    def _are_elements(cls, value: str | list[str] | None) -> str | list[str] | None:
        for path in [value] if isinstance(value, str) else value or []:
            if "@" in path:
                raise ValueError(f"{path!r} is an attribute; an element is needed here")
        return value
