"""What sources of software share: which files, and what is left out."""

from __future__ import annotations

from pydantic import Field

from lmcraft.corpus.readers.files import Fault
from lmcraft.corpus.sources.code_files import LEFT_OUT
from lmcraft.corpus.sources.source import SourceConfig


class CodeOptions(SourceConfig):
    """Which files of a project become documents."""

    pattern: str = Field(
        "**/*", description="Which files: `**/` any folders, `*` and `?` within a name, `{a,b}` either."
    )
    max_file_bytes: int = Field(1_000_000, ge=1, description="A larger file is left out.")
    generated: bool = Field(False, description="Keep generated and minified files.")
    vendored: bool = Field(False, description="Keep files in folders of other projects' code (vendor, node_modules…).")
    prose: bool = Field(True, description="Also the project's prose: Markdown, reStructuredText, plain text.")

    def stops_at(self, fault: Fault) -> bool:
        return super().stops_at(fault) and fault.reason not in LEFT_OUT
