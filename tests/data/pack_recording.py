"""Packs a recording of the real PDS into the compact copy that the tests play back.

    python -m tests.data.pack_recording FOLDER

FOLDER holds `pdsN.live.frames`, `expected-state.json`, `network.json`, `plc-logs/` and `cars/`.
The output is the same for the same input.
"""

from __future__ import annotations

import io
import lzma
import sys
import tarfile
from pathlib import Path

TARGET = Path(__file__).parent / "recorded"
STATE = ("expected-state.json", "network.json", "plc-logs/*.json", "cars/*.car")


def pack(source: Path) -> None:
    TARGET.mkdir(exist_ok=True)
    for host in ("pds1", "pds2"):
        frames = (source / f"{host}.live.frames").read_bytes()
        (TARGET / f"{host}.frames.xz").write_bytes(lzma.compress(frames, preset=9))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in sorted(file for pattern in STATE for file in source.glob(pattern)):
            entry = tarfile.TarInfo(str(file.relative_to(source)))
            content = file.read_bytes()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (TARGET / "state.tar.xz").write_bytes(lzma.compress(buffer.getvalue(), preset=9))


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
