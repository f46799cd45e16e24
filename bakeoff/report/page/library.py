"""The library that draws the page's charts: Vega, Vega-Lite and Vega-Embed, as vl-convert-python holds them."""

import contextlib
import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

from bakeoff.core.files import replace

PACKAGE = "vl-convert-python"
EXPORTS = "globalThis.vegaEmbed = vegaEmbed;"


def vega(folder: Path | None = None) -> str:
    """The library as one script that defines `vegaEmbed`.

    It takes seconds to put together, so it is kept in `folder`, if one is given, under the package's version.
    """
    path = folder / kept() if folder else None
    if path and (known := read(path)):
        return known
    script = bundle()
    if path:
        with contextlib.suppress(OSError):  # no room to keep it: the next page puts it together again
            keep(path, script)
    return script


def kept() -> str:
    """The name of the file that keeps the library."""
    return f"vega-{version(PACKAGE)}.js"


def keep(path: Path, script: str) -> None:
    """Writes `script` to `path`, after a line with its checksum. Raises OSError."""
    replace(path, f"// {checksum(script)}\n{script}".encode())


def read(path: Path) -> str:
    """The script that was kept in `path`; empty where there is none, or another one than was kept."""
    try:
        said, _, script = path.read_bytes().decode(errors="replace").partition("\n")
    except OSError:
        return ""
    return script if said == f"// {checksum(script)}" else ""


def checksum(script: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(script.encode()).hexdigest()


@functools.cache
def bundle() -> str:
    """The library, put together anew."""
    import vl_convert

    # What would end a <script> early is written in another way (HTML standard, "Restrictions for contents of scripts").
    return str(vl_convert.javascript_bundle(EXPORTS)).replace("</script", "<\\/script").replace("<!--", "<\\!--")
