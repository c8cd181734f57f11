"""The log of the PLC directory, page by page, where the directory offers it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from indexer.network.answers import XrpcFailure, answered_at
from indexer.network.http import HttpClient
from indexer.protocol.plc_export import PAGE_OPERATIONS, ExportPage, parse_export, time_text

PAGE_BYTES_MAX = 16 * 1024 * 1024
"""An operation has at most 7,500 bytes, and JSON around them."""

PAGE_S = 60.0


class DirectoryLog:
    """Satisfies `indexer.ingest.directory.Log`."""

    def __init__(self, http: HttpClient, *, plc_url: str) -> None:
        self._http = http
        self._plc_url = plc_url

    async def page(self, after_ms: int, *, skips_bad: bool) -> ExportPage | None:
        """Operations made after a time, oldest first; None where the directory has no such list.

        With `skips_bad` lines that cannot be read do not end the page. Raises `Unavailable`, or
        `InvalidUpstream` for an answer that is not from a directory.
        """
        at_ms: int | None = None

        def note(headers: Mapping[str, str]) -> None:
            nonlocal at_ms
            at = answered_at(headers)
            at_ms = None if at is None else int(at * 1000) + 999  # to the end of that second

        try:
            data = await self._http.get_bytes(
                f"{self._plc_url}/export",
                service="plc",
                params={"count": str(PAGE_OPERATIONS), "after": time_text(after_ms)},
                bytes_max=PAGE_BYTES_MAX,
                timeout_s=PAGE_S,
                is_configured=True,
                on_headers=note,
            )
        except XrpcFailure:
            return None
        page = await asyncio.to_thread(parse_export, data, skips_bad=skips_bad)
        return replace(page, at_ms=at_ms)
