"""Files that are there completely or not at all."""

import os
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Writes `content` under a temporary name beside `path`, then renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
