"""Settings files, and documents that citations are read from."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from random import Random

from indexer import setting_refusals, setting_sections, setting_values, settings
from indexer.citations import (
    bibtex,
    entries,
    extraction,
    headings,
    identifiers,
    lines,
    markup,
    names,
    packages,
    parsing,
)
from indexer.citations.extraction import TEXT_FORMATS, references_of_text
from indexer.errors import ConfigurationError, InvalidUpstream
from indexer.settings import effective, load_settings
from tests.bench.process import ROOT
from tests.fuzz.mutation import TEXTS, havoc

VALUES = (b"true", b"-1", b"0", b"1e999", b"nan", b'""', b"[]", b'["a"]', b"{}", b"9" * 30, b'"\\u0000"', b"1979-05-27", b'"http://127.0.0.1"', b'"did:web:a.example"', b'"0.0.0.0"', b"0x10", b"[[[[]]]]")  # fmt: skip


class SettingsFiles:
    """A file and an environment give settings that can be written and read again, or one line why not."""

    name = "settings"
    modules = (settings, setting_sections, setting_values, setting_refusals)

    def __init__(self, seed: int) -> None:
        del seed
        text = (ROOT / "config" / "indexer.example.toml").read_text()
        kept = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
        self._lines = [line.encode() for line in kept if line and not line.startswith("#")]
        self._lines = [line for line in self._lines if b" = " in line or line.startswith(b"[")]
        folder = tempfile.mkdtemp(prefix="fuzz-settings-")
        weakref.finalize(self, shutil.rmtree, folder)
        self._file = Path(folder) / "indexer.toml"

    def make(self, rng: Random) -> bytes:
        """The file; after a NUL variables, one a line."""
        section, made, variables = b"", [], []
        for line in self._lines:
            if line.startswith(b"["):
                section = line
                made.append(line)
            elif rng.random() < 0.12:
                name, _, value = line.partition(b" = ")
                value = rng.choice(VALUES) if rng.random() < 0.15 else value
                if rng.random() < 0.1:
                    variables.append(b"CHIVE_INDEXER_%s__%s=%s" % (section.strip(b"[]").upper(), name.upper(), value.strip(b'"')))  # fmt: skip
                else:
                    made.append(name + b" = " + value)
        data = b"\n".join(made)
        if rng.random() < 0.3:
            data = havoc(rng, data, rng.choice(TEXTS).encode() or b" ")
        return data.replace(b"\0", b" ") + b"\0" + b"\n".join(variables)

    def check(self, data: bytes) -> str:
        """As at a start."""
        text, _, rest = data.partition(b"\0")
        pairs = (line.split(b"=", 1) for line in rest.split(b"\n") if b"=" in line)
        environment = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        self._file.write_bytes(text)
        try:
            found = load_settings(self._file, environment)
        except ConfigurationError as error:
            refused = str(error)
        else:
            return self._accepted(found)
        assert "\n" not in refused, "a refusal is one line"
        return "refused"

    def _accepted(self, found: settings.Settings) -> str:
        self._file.write_text(effective(found))
        assert load_settings(self._file, {}) == found
        return "accepted"


ENTRIES = (
    "[1] Smith, J., & Doe, A. (2019). A title of some length. Journal of Things, 12(3), 45-67. https://doi.org/10.1000/xyz123",
    "2. M\u00fcller K, Li W. On something else. Nature 2020; 580: 123\u2013130. PMID: 12345678",
    "Garc\u00eda, M. et al. \u201cQuoted title,\u201d in Proc. of Things, 2018, pp. 1--9. arXiv:1801.01234v2",
    "@article{a, author={A and B and {The {Nested} Group}}, title={T}, year=2020, doi={10.1/x}}",
    "\\bibitem[A(2020)]{a} A. Author, \\emph{A title}, J. {\\bf 3} (2020) 1--2.",
    "References", "\\begin{thebibliography}{9}", "\\end{thebibliography}", "## Bibliography", "Appendix",
    "<h2>References</h2><ol><li>Doe J. <i>Title</i>. 2001.</li></ol>", "{\\rtf1\\ansi References\\par [1] A. B. 2001\\par}",
    '{"cells": [{"cell_type": "markdown", "source": ["# References\\n", "1. A. B. 2001."]}]}',
)  # fmt: skip
BITS = ("{", "}", "\\", "((((", "[1]", ". ", ", ", "and ", "10.1000/", "https://doi.org/", "\u201c", "@", "<", "&", "\n\n", "et al.", "A. ", "2020", "\t", "=", '"', "-\n", "$", "%", "\\'e", "\\par ", "\\u8364?", "<li>", "|", "#")  # fmt: skip


class Citations:
    """Text of every format becomes a list of references, in time that grows with its length."""

    name = "citations"
    modules = (
        bibtex,
        entries,
        extraction,
        headings,
        identifiers,
        lines,
        markup,
        names,
        packages,
        parsing,
    )

    def __init__(self, seed: int) -> None:
        del seed
        self._formats = [name for name in TEXT_FORMATS if name not in {"docx", "odt", "epub"}]

    def make(self, rng: Random) -> bytes:
        """The format, a line end, and a document of up to some 6 kB."""
        parts = []
        for _ in range(rng.randrange(1, 10)):
            part = rng.choice(ENTRIES)
            if rng.random() < 0.4:
                at = rng.randrange(len(part))
                part = part[:at] + rng.choice(BITS) * rng.choice((1, 1, 2, 200)) + part[at:]
            parts.append(part)
        data = "\n".join(parts).encode()
        if rng.random() < 0.4:
            data = havoc(rng, data, b" ".join(each.encode() for each in BITS))
        return rng.choice(self._formats).encode() + b"\n" + data[:6000]

    def check(self, data: bytes) -> str:
        """What the reading process does with a document that is no PDF."""
        form, _, text = data.partition(b"\n")
        name = form.decode("latin-1")
        try:
            found = references_of_text(text, name if name in TEXT_FORMATS else "txt")
        except InvalidUpstream as error:
            return f"refused {error.check}"
        return "accepted" if found else "accepted without references"


__all__ = ["Citations", "SettingsFiles"]
