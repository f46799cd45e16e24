"""index.html: the template with data, style and scripts in it, and a policy that forbids every request."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bakeoff.core.files import replace
from bakeoff.gate.verdicts import Gate
from bakeoff.metrics.rouge import Prediction
from bakeoff.report import results_json
from bakeoff.report.comparison import Comparison
from bakeoff.report.escape import lines
from bakeoff.report.exports import history
from bakeoff.report.page import details
from bakeoff.report.page.library import vega
from bakeoff.report.page.metrics import metric
from bakeoff.report.page.result import shown
from bakeoff.report.page.verdicts import recorded

TEMPLATE = Path(__file__).with_name("template")
SCRIPTS = ("dom", "table", "charts", "scores", "curves", "costs", "documents", "time", "main")
"""Files of JavaScript, in the order in which they are run."""
NAME, ASIDE = "index.html", "index.texts.js"
INHERITED = frozenset(
    ("__proto__", "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString",
     "toString", "valueOf", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__")
)  # fmt: skip
"""Properties of every JavaScript object (ECMAScript, "Properties of the Object Prototype Object")."""
LIMIT = 3_500_000
"""Bytes of data that the page itself holds; the library adds 900 kB, and a page stays below 5 MB."""


def write_report(
    comparison: Comparison, predictions: Mapping[str, Sequence[Prediction]], folder: Path, gate: Gate | None,
    cache: Path | None,
) -> None:  # fmt: skip
    """Writes details.json and the page of one bake-off into `folder`."""
    said = history.verdicts(gate) if gate else None
    found = {**details.content(comparison, predictions), "gate": said}
    replace(folder / details.NAME, details.dump(found).encode())
    content = results_json.content(comparison)
    page = shown(content, found)
    if said:
        metrics = {one["key"]: metric(one["key"], content) for one in page["metrics"]}
        page["verdicts"] = recorded(said, page["name"], metrics)
    write([page], folder / NAME, cache)


def write(results: Sequence[dict[str, Any]], path: Path, cache: Path | None = None, time: Any = None) -> Path:
    """Writes the page of `results` (see `result.shown`), the newest last, to `path`; returns `path`.

    `time` is what `over_time.compared` says of several results. `cache` is a folder that keeps the charts' library.
    """
    data = inert({"results": list(results), "time": time, "aside": ""})
    aside = path.with_suffix(".texts.js")
    large = len(packed(data).encode()) > LIMIT
    if large:
        data["aside"] = aside.name
        moved = [{key: one.pop(key) for key in ("texts", "steps")} for one in data["results"]]
        replace(aside, f"globalThis.bakeoffTexts = {packed(moved)};\n".encode())
    else:
        aside.unlink(missing_ok=True)
    parts = "\n".join(source(f"{name}.js") for name in SCRIPTS)
    library, script = vega(cache), f'"use strict";\n(() => {{\n{parts}\n}})();'
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, trim_blocks=True)
    page = environment.get_template(NAME).render(
        policy=policy((library, script), large),
        style=Markup(source("page.css")),
        data=Markup(packed(data)),
        aside=aside.name if large else "",
        library=Markup(library),
        script=Markup(script),
        newest=data["results"][-1],
        title=title(data["results"]),
        several=len(results) > 1,
    )
    replace(path, page.encode())
    return path


def title(results: Sequence[Mapping[str, Any]]) -> str:
    """The preset's name; of results of several presets, their number."""
    presets = {one["preset"] for one in results}
    return presets.pop() if len(presets) == 1 else f"{len(results)} results"


def source(name: str) -> str:
    """A file of the template."""
    return (TEMPLATE / name).read_text(encoding="utf-8")


def policy(scripts: Sequence[str], aside: bool) -> str:
    """The page's Content-Security-Policy: nothing is fetched, and only the page's own scripts run.

    Text that became a script by mistake would have another hash, so a browser would refuse it.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = [f"'sha256-{one}'" for one in hashes] + ["'self'", "file:"] * aside
    return (
        f"default-src 'none'; script-src {' '.join(allowed)}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def packed(value: Any) -> str:
    """`value` as JSON without a character that means something to HTML, or ends a line of JavaScript."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def inert(value: Any) -> Any:
    """`value` with every text as `lines` shows it: no control and no bidirectional character is left."""
    if isinstance(value, str):
        return named(lines(value))
    if isinstance(value, dict):
        return {inert(str(key)): inert(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        numbers = all(isinstance(item, (int, float)) for item in value)  # thousands of curves are not copied
        return value if numbers else [inert(item) for item in value]
    return value


def named(text: str) -> str:
    """`text`, with a no-break space behind it where every JavaScript object has a property of that name already.

    Vega keeps groups by name in such objects and would find the property instead of the group.
    """
    return f"{text}\u00a0" if text in INHERITED else text
