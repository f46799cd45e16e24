"""Which method works on which architecture: docs/compatibility.md and docs/compatibility.json (`make compatibility`).

python -m lab.compatibility                                  makes every cell
python -m lab.compatibility --only llama,gpt2 --method lora  makes these cells anew, the others stay
"""

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from bakeoff.shipped import ROOT
from lab.compatibility.architectures import ARCHITECTURES
from lab.compatibility.cells import METHODS, PACKED, Cell, Workbench

TABLE = ROOT / "docs" / "compatibility.md"
CELLS = ROOT / "docs" / "compatibility.json"
HEADER = """# Compatibility

Each cell says what a method does on a tiny random model of an architecture. The weights are wide, so that a wrong
position or mask changes the text. `make compatibility` writes this page and `compatibility.json` beside it.

A cell that names a layout *works and equals the reference*, which is transformers alone with one document, no
padding, no cache and explicit positions. After two training steps, the fp32 loss and its gradient at micro-batch 1
and 4, and every text at batch size 1, 4 and 6, are those of the reference. The four parameter counts agree, and the
saved adapter writes the same text.

- **packed**: documents of a batch share one row without padding, in training and in generation.
- **padded**: documents are padded on the right in training and on the left in generation.
- **by length**: prompts of equal length are decoded together, without padding.
- **alone**: one document is computed at a time.
- **no cache**: the whole text is read again for each token.
- **-**, with a number: the method is refused when a bake-off is planned, with the line below.

If nothing is packed, `compatibility.json` says why. What is packed here is packed on a GPU, too.
"""


def main() -> int:
    """Writes the table with the cells that were asked for; 1 where one of these is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="architectures, with commas")
    parser.add_argument("--method", default="", help="methods, with commas")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(ARCHITECTURES)
    methods = arguments.method.split(",") if arguments.method else list(METHODS)
    found: list[Cell] = []
    with ProcessPoolExecutor(arguments.workers) as pool:
        for row in pool.map(functools.partial(cells, methods=methods), names):
            found += row
            for cell in row:
                print(
                    f"{cell.architecture:18} {cell.method:18} {cell.verdict:8} {cell.path:10} {cell.words}", flush=True
                )
    write(found)
    return int(any(cell.verdict == "wrong" for cell in found))


def write(found: Sequence[Cell]) -> None:
    """Puts `found` among the cells that are kept, in the order of ARCHITECTURES and METHODS."""
    known = {(cell.architecture, cell.method): cell for cell in (*(committed() if CELLS.is_file() else ()), *found)}
    order = [known[name, method] for name in ARCHITECTURES for method in METHODS if (name, method) in known]
    TABLE.parent.mkdir(exist_ok=True)
    CELLS.write_text(json.dumps([asdict(cell) for cell in order], indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(page(order), encoding="utf-8")


def cells(name: str, methods: Sequence[str]) -> list[Cell]:
    """One row of the table."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder))
        return [bench.cell(name, method) for method in methods]


def committed() -> list[Cell]:
    """The cells that the repository keeps."""
    return [Cell(**row) for row in json.loads(CELLS.read_text(encoding="utf-8"))]


def page(found: Sequence[Cell]) -> str:
    """The table in Markdown."""
    notes: dict[str, int] = {}
    methods = list(dict.fromkeys(cell.method for cell in found))
    by_name = {(cell.architecture, cell.method): cell for cell in found}
    names = list(dict.fromkeys(cell.architecture for cell in found))
    rows = [f"| architecture | {' | '.join(methods)} |", f"| --- |{' --- |' * len(methods)}"]
    rows += [
        f"| {name} | {' | '.join(shown(by_name.get((name, method)), notes) for method in methods)} |" for name in names
    ]
    refused = [f"{number}. {words}" for words, number in notes.items()]
    verdicts = [cell.verdict for cell in found]
    packed = sum(cell.path == PACKED for cell in found)
    counts = (
        f"{len(names)} architectures, {len(found)} cells: {verdicts.count('works')} work ({packed} packed), "
        f"{verdicts.count('refused')} are refused, {verdicts.count('wrong')} are wrong."
    )
    return "\n".join([HEADER, counts, "", *rows, "", "## Refused with", "", *refused]).rstrip() + "\n"


def shown(cell: Cell | None, notes: dict[str, int]) -> str:
    """A cell of the table; `notes` numbers the lines of what is refused."""
    if cell is None:
        return ""
    if cell.verdict == "refused":
        return f"- <sup>{notes.setdefault(cell.words, len(notes) + 1)}</sup>"
    return cell.path if cell.verdict == "works" else f"**wrong**: {cell.words}"
