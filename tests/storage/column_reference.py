"""`python -m tests.storage.column_reference`: write the columns of all views into the document."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.storage.typed_world import REGISTRY, typed_world

DOCUMENT = Path(__file__).parents[2] / "docs" / "reading-the-index.md"
INTERNAL = {
    "collaboration_states", "collection_claims", "collection_links", "extracted_citations",
}  # fmt: skip
"""Steps on the way to other views."""


def reference(connection: sqlite3.Connection) -> str:
    """The section as it must be: every view with its columns."""
    nsids = {kind.table: kind.nsid for kind in REGISTRY.types.values()}
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name")
    lines = []
    for (name,) in names.fetchall():
        if name not in INTERNAL:
            columns = connection.execute("SELECT name FROM pragma_table_info(?)", (name,))
            shown = ", ".join(f"`{column}`" for (column,) in columns)
            of = f" (`{nsids[name]}`)" if name in nsids else ""
            lines.append(f"* **`{name}`**{of}: {shown}")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The section as it is."""
    return re.split(r"<!-- Written by .* -->\n\n", DOCUMENT.read_text())[1]


async def main() -> None:
    """Write the section anew."""
    with tempfile.TemporaryDirectory() as folder:
        async with typed_world(Path(folder)) as world:
            with closing(sqlite3.connect(f"file:{world.path}?mode=ro", uri=True)) as reader:
                section = reference(reader)
    before = re.match(r".*<!-- Written by [^\n]*-->\n", DOCUMENT.read_text(), re.DOTALL)
    assert before is not None
    DOCUMENT.write_text(f"{before[0]}\n{section}")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
