"""The static files of the console, compressed without a step of an installation."""

import gzip
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from django.conf import settings
from servestatic.compress import Compressor
from servestatic.middleware import ServeStaticMiddleware
from servestatic.responders import StaticFile

MIN_BYTES = 1024  # below it, compression saves no packet
LEVEL = 6  # quicker than 9, and 1 % larger
COMPRESSOR = Compressor(use_brotli=False, use_zstd=False, quiet=True)  # gzip needs no further package


class CompressedStaticMiddleware(ServeStaticMiddleware):
    """ServeStatic, with the compressed copies in TOLLGATE_HOME/static instead of beside the files, which stand in the
    folders of installed packages. The first process to start makes them."""

    def get_static_file(
        self, path: str, url: str, stat_cache: Mapping[str, os.stat_result] | None = None
    ) -> StaticFile:
        plain = super().get_static_file(path, url, stat_cache=stat_cache)
        copy = _compressed_copy(Path(path))
        if copy is None:
            return plain
        *_, (_, _, headers) = plain.alternatives
        headers = [(name, value) for name, value in headers if name != "Content-Length"]
        return StaticFile(path, headers, encodings={"gzip": str(copy)})


def _compressed_copy(path: Path) -> Path | None:
    """The path of the copy; None for a file that is not worth one, or where none can be written."""
    stat = path.stat()
    if stat.st_size < MIN_BYTES or not COMPRESSOR.should_compress(path.name):
        return None
    name = hashlib.sha256(f"{path}:{stat.st_mtime_ns}:{stat.st_size}".encode()).hexdigest()
    copy = settings.TOLLGATE_HOME / "static" / f"{name}.gz"
    if not copy.exists():
        draft = copy.with_suffix(f".{os.getpid()}")
        try:
            copy.parent.mkdir(mode=0o700, exist_ok=True)
            draft.write_bytes(gzip.compress(path.read_bytes(), LEVEL, mtime=0))
            draft.replace(copy)  # atomic: another process may write the same copy
        except OSError:
            return None
    return copy
