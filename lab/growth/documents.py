"""How memory and time grow with the number of documents: loading, splitting, encoding and batching, no training."""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from bakeoff.config.schema import ModelSettings, TaskSettings
from bakeoff.core.disk_list import DiskList
from bakeoff.data import tasks
from bakeoff.data.encoding import Encoder
from bakeoff.engine.batches import by_size, collate
from bakeoff.models import loading
from bakeoff.runs.resources import Memory
from bakeoff.runs.training import windows
from bakeoff.session import worker

SIZES = (1_000, 10_000, 100_000)
WORDS = 120
"""Of a generated document, on average; a paper's abstract has 135."""


def words(draw: random.Random) -> list[str]:
    """Five thousand words of random letters."""
    return ["".join(draw.choices("aeioulnrst", k=draw.randint(2, 9))) for _ in range(5_000)]


def generate(path: Path, documents: int) -> None:
    """Writes `documents` texts of random words, each with a summary, as JSONL without a split column."""
    draw = random.Random(documents)
    known = words(draw)
    with path.open("w", encoding="utf-8") as file:
        for number in range(documents):
            text, gist = (" ".join(draw.choices(known, k=count)) for count in (draw.randint(60, 2 * WORDS - 60), 20))
            file.write(json.dumps({"document": f"{number} {text}.", "summary": f"{gist}."}) + "\n")


def walk(path: str, model: dict[str, Any], cache: str, tell: Any) -> dict[str, Any]:
    """Seconds of each stage for one file and the peak of resident bytes above the level before it, as a job."""
    settings = ModelSettings(**model)
    tokenizer = loading.load_tokenizer(settings, loading.prepare(loading.locate(settings), Path(cache)))
    chosen = TaskSettings(name=path, train=0, validation=100, test=100, split_column="")
    tokenizer("What a tokenizer builds at its first use is not the documents'.")
    memory = Memory("cpu")
    start = time.perf_counter()
    task = tasks.load(chosen)
    loaded = time.perf_counter()
    encoder = Encoder(tokenizer, task, chosen)
    train = DiskList(encoder.example(example) for example in task.examples.train)
    encoded = time.perf_counter()
    tokens = 0
    for window in windows(len(train), 8):
        for micro in by_size([train[place] for place in window], 8):
            tokens += collate(micro, tokenizer.pad_token_id).input_ids.numel()
    batched = time.perf_counter()
    return {
        "load and split": loaded - start,
        "encode": encoded - loaded,
        "batch": batched - encoded,
        "tokens": tokens,
        "resident_bytes": memory.read()["max_resident"],
    }


def measure(folder: Path, cache: Path, log: Path, sizes: Sequence[int] = SIZES, model: Any = None) -> list[dict]:
    """A row for each number of documents, each measured in a process of its own."""
    from bakeoff.config.schema import plain

    rows = []
    for documents in sizes:
        path = folder / f"{documents}.jsonl"
        generate(path, documents)
        found = worker.call(walk, str(path), plain(model or ModelSettings()), str(cache), log=log)
        path.unlink()
        rows.append({"documents": documents, **found})
    return rows


def scored(summaries: int, compared: int, tell: Any) -> dict[str, float]:
    """Seconds of scoring `summaries` of 128 words, and how many of the first `compared` rouge-score scores the same."""
    from rouge_score.rouge_scorer import RougeScorer

    from bakeoff.metrics import rouge
    from bakeoff.metrics.rouge import Prediction

    draw = random.Random(0)
    known = words(draw)
    ours, theirs = ([" ".join(draw.choices(known, k=128)) for _ in range(summaries)] for _ in range(2))
    start = time.perf_counter()
    made = [Prediction(str(place), "", *texts) for place, texts in enumerate(zip(theirs, ours, strict=True))]
    _, found = rouge.Scorer().score(made)
    seconds = time.perf_counter() - start
    scorer, same = RougeScorer(list(found), use_stemmer=True), 0
    for place in range(compared):
        reference = scorer.score(theirs[place], ours[place])
        same += all(found[metric][place] == reference[metric].fmeasure for metric in found)
    return {"summaries": summaries, "seconds": seconds, "compared": compared, "same": same}


def linear(rows: Sequence[dict[str, Any]]) -> float:
    """The slope of log seconds over log documents between the first and the last row: 1 is linear time."""
    seconds = [row["load and split"] + row["encode"] + row["batch"] for row in (rows[0], rows[-1])]
    return float(numpy.log(seconds[1] / seconds[0]) / numpy.log(rows[-1]["documents"] / rows[0]["documents"]))
