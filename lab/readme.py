"""Keeps README and docs/ true: the lists of folders, settings and presets, and the table of results, from what they
describe.

`python -m lab.readme` (`make readme`) writes each between its marks, `<!-- NAME -->` and `<!-- end -->`.
"""

import ast
import dataclasses
import re
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bakeoff.config import presets, schema
from bakeoff.core.validation import words

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
REPORT, ZOO = (DOCS / "reports" / name / "report.md" for name in ("quick", "zoo"))
FIGURES = ("ROUGE-1 F1 x 100", "ROUGE-2 F1 x 100", "ROUGE-L F1 x 100", "training, s", "peak resident memory",
           "parameters, trainable")  # fmt: skip
"""The rows of the report's comparison that the README shows."""
INTERNAL = ("preset", "changes", "source")
"""Fields of Settings that no preset may set."""


def folders() -> str:
    """A Markdown table of the folders of bakeoff/ from the ground up, each with its docstring's first sentence."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    rows = ["| `bakeoff/` | what it does |", "| --- | --- |"]
    for name in (part.strip() for layer in reversed(contract["layers"]) for part in layer.split("|")):
        folder = ROOT / "bakeoff" / name
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sentence = " ".join(docstring.split("\n\n")[0].split()).rstrip(".").replace("|", "and")
        rows.append(f"| `{name}{'/' if folder.is_dir() else '.py'}` | {sentence} |")
    return "\n".join(rows)


def results() -> str:
    """Six rows of the kept report's comparison, and what it concludes of ROUGE. Raises ValueError without a row."""
    found = sections(REPORT)
    lines = [line for line in found["Comparison"].splitlines() if line.startswith("|")]
    by_name = {line.split("|")[1].strip(): line for line in lines}
    if missing := [name for name in FIGURES if name not in by_name]:
        raise ValueError(f"{REPORT} has no row {missing[0]!r} in its comparison")
    rows = [*lines[:2], *(by_name[name] for name in FIGURES)]
    concluded = [
        line for line in found["Conclusion"].splitlines() if line.startswith(("- The best", "- Highest", "- No "))
    ]
    return "\n".join([*rows, "", *concluded])


def zoo() -> str:
    """What the kept report of the preset `zoo` begins with, and which methods are worth their cost."""
    text = ZOO.read_text(encoding="utf-8")
    first, compared = text.split("\n\n")[1:3]
    drawn = re.search(r"!\[(.*?)\]\(plots/pareto.png\)", text)
    found = re.findall(r"Frontier by ([^:]*): ([^.]*)\.", drawn[1] if drawn else "")
    worth = "; ".join(f"by {cost.partition(',')[0]} {names}" for cost, names in found)
    return f"{compared} {first.strip('*')} Worth their cost, each above the one before by a corrected test: {worth}."


def sections(report: Path) -> dict[str, str]:
    """The text of a report by heading."""
    parts = report.read_text(encoding="utf-8").split("\n## ")
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def settings() -> str:
    """Every setting as Markdown, a heading a table of a preset: key, default, permitted values, meaning."""
    documented = docstrings(ast.parse(Path(schema.__file__).read_text(encoding="utf-8")))
    parts = [section("The top of a preset", schema.Settings, documented, {*schema.SECTIONS, *INTERNAL, "methods"})]
    parts += [section(f"[{name}]", kind, documented) for name, kind in schema.SECTIONS.items()]
    return "\n\n".join(parts)


def shipped() -> str:
    """A Markdown table of the presets in bench/, with what they compare on."""
    rows = ["| name | model | task | papers or articles | seeds | purpose |", "| --- | --- | --- | --- | --- | --- |"]
    for path in sorted((ROOT / "bench" / "presets").glob("*.toml")):
        found = presets.load(path.stem)
        counts = "/".join(f"{count:,}" for count in (found.task.train, found.task.validation, found.task.test))
        rows.append(f"| `{path.stem}` | `{found.model.name}` | `{found.task.name}` | {counts} | {len(found.seeds)} | "
                    f"{found.description} |")  # fmt: skip
    return "\n".join(rows)


def section(title: str, kind: type, documented: Mapping[tuple[str, str], str], without: set[str] | None = None) -> str:
    """One dataclass of settings; `without` are fields to leave out."""
    lines = [f"## {title}", "", documented[kind.__name__, ""], ""]
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in (without or set()):
            text = documented[kind.__name__, field.name]
            lines.append(f"- **`{field.name}`** = `{default(field)}` ({permitted(field, hints[field.name])}). {text}")
    return "\n".join(lines)


def default(field: dataclasses.Field) -> str:
    """A field's default as TOML."""
    if field.default is dataclasses.MISSING:
        return "{}"
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f'"{value}"' if isinstance(value, str) else str(value)


def permitted(field: dataclasses.Field, hint: Any) -> str:
    """What a field may be, in words."""
    limits = field.metadata
    if limits.get("choices"):
        return "one of " + ", ".join(f"`{choice}`" if choice else '`""`' for choice in limits["choices"])
    text = "a table" if typing.get_origin(hint) is Mapping else words(hint)
    low, high = (str(limits.get(bound)).removesuffix(".0") for bound in ("minimum", "maximum"))
    if high != "None":
        return f"{text} from {low} to {high}"
    return text if low == "None" else f"{text}, at least {low}"


def docstrings(module: ast.Module) -> dict[tuple[str, str], str]:
    """The text under each class and field of `module`, on one line, by (class, field); a class's own has field ""."""
    found = {}
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            found[node.name, ""] = " ".join((ast.get_docstring(node) or "").split())
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                    name, text = ast.unparse(before.target), ast.literal_eval(after.value)
                    found[node.name, name] = " ".join(text.split())
    return found


def between(text: str, mark: str, new: str) -> str:
    """`text` with `new` between `<!-- mark -->` and the next `<!-- end -->`. Raises ValueError without these marks."""
    start, end = f"<!-- {mark} -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(start)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"there is no {start} with an {end} after it")
    return pattern.sub(lambda _: f"{start}\n\n{new}\n\n{end}", text, count=1)


WRITTEN: tuple[tuple[Path, str, Callable[[], str]], ...] = (
    (README, "results", results),
    (DOCS / "index.md", "results", results),
    (README, "zoo", zoo),
    (DOCS / "methods.md", "zoo", zoo),
    (DOCS / "architecture.md", "folders", folders),
    (DOCS / "presets.md", "presets", shipped),
    (DOCS / "settings.md", "settings", settings),
)
"""File, mark, and what makes the text between them."""


def main() -> None:
    """Writes every part anew."""
    for path, mark, make in WRITTEN:
        text = path.read_text(encoding="utf-8")
        path.write_text(between(text, mark, make()), encoding="utf-8")


if __name__ == "__main__":
    main()
