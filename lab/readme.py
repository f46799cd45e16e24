"""Keeps the README true: its list of rooms from the code, its table from the report that is kept in docs/.

`python -m lab.readme` (`make readme`) writes both between their marks.
"""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
REPORT = ROOT / "docs" / "reports" / "quick" / "report.md"


def rooms() -> str:
    """A Markdown table of the rooms of bakeoff/ from the ground up, each with the first sentence of its docstring."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    rows = ["| room of `bakeoff/` | what it does |", "| --- | --- |"]
    for name in (part.strip() for layer in reversed(contract["layers"]) for part in layer.split("|")):
        folder = ROOT / "bakeoff" / name
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sentence = " ".join(docstring.split("\n\n")[0].split()).rstrip(".").replace("|", "and")
        rows.append(f"| `{name}{'/' if folder.is_dir() else '.py'}` | {sentence} |")
    return "\n".join(rows)


def table() -> str:
    """The comparison table of the committed report, with what stands above and below it."""
    text = REPORT.read_text(encoding="utf-8")
    section = text.partition("\n## Comparison\n")[2].partition("\n## ")[0].strip()
    return f"{section}\n\nFrom [docs/reports/quick/report.md](docs/reports/quick/report.md)."


def between(text: str, mark: str, new: str) -> str:
    """`text` with `new` between `<!-- mark -->` and the next `<!-- end -->`. Raises ValueError without these marks."""
    start, end = f"<!-- {mark} -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(start)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no {start} with an {end} after it")
    return pattern.sub(lambda _: f"{start}\n\n{new}\n\n{end}", text, count=1)


def main() -> None:
    """Writes the README anew."""
    text = between(README.read_text(encoding="utf-8"), "rooms", rooms())
    README.write_text(between(text, "table: docs/reports/quick", table()), encoding="utf-8")


if __name__ == "__main__":
    main()
