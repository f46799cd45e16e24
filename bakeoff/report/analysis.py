"""Sentences about a comparison, each computed from its figures; a figure that was not measured is in none of them."""

from collections.abc import Callable, Mapping, Sequence

from bakeoff.report import figures
from bakeoff.report.comparison import MANY, MEMORY, Comparison, Row, extreme
from bakeoff.report.figures import listing, number
from bakeoff.report.headline import headline
from bakeoff.report.performance import Quote, performance

PEAKS = tuple(counter for counter in MEMORY if counter.startswith("max_"))


def sections(comparison: Comparison, quote: Quote) -> dict[str, list[str]]:
    """The sentences by section, in order; none is empty."""
    rows = comparison.methods
    found = {
        "Performance": performance(comparison, quote),
        "Training efficiency": efficiency(rows, quote),
        "Memory": memory(rows, quote),
        "Parameters": parameters(rows, quote),
        **({"Side effects": effects} if (effects := side_effects(rows, quote)) else {}),
        "Conclusion": conclusion(comparison, quote),
    }
    return {name: sentences or ["No figure was measured."] for name, sentences in found.items()}


def first(comparison: Comparison, quote: Quote) -> str:
    """The sentence with which the page begins, too: the best mean, and what is told from it."""
    metric = comparison.main
    means = {row.name: comparison.mean(metric, row) for row in comparison.methods}
    why = "the variance between seeds is not known"
    if len(comparison.document_ids) < 2:
        why = "one test document gives no interval"
    return headline(means, comparison.alike(metric), comparison.label(metric), quote, comparison.facts(metric).show,
                    comparison.falls(metric), why)  # fmt: skip


def compared(comparison: Comparison, quote: Quote) -> str:
    """What was compared, in one line."""
    settings = comparison.settings
    who = f"{number(len(comparison.methods), 'method')} and {number(len(comparison.controls), 'control')}"
    seeds = ", ".join(map(str, settings.seeds))
    dead = f" {listing([quote(name) for name in comparison.dead])} died." if comparison.dead else ""
    return (
        f"{who} on {quote(settings.task.name)} with the base model {quote(settings.model.name)}: "
        f"{number(len(comparison.document_ids), 'test document')}, "
        f"{'seed' if len(settings.seeds) == 1 else 'seeds'} {seeds}.{dead}"
    )


def warnings(comparison: Comparison, quote: Quote) -> list[str]:
    """What a reader must know of scores and documents, a sentence each."""
    said = [f"{quote(note)}." for note in comparison.notes]
    data = comparison.data
    dropped = {
        "without a text": data.get("empty", 0),
        "that repeat another": data.get("repeated", 0),
        "of documents that belong to an earlier split": data.get("two_splits", 0),
        "of other splits": data.get("other_splits", 0),
    }
    if total := sum(dropped.values()):
        each = ", ".join(f"{count:,} {what}" for what, count in dropped.items() if count)
        verb = "was" if total == 1 else "were"
        rows = number(data["rows"], "row")
        said.append(f"Of {rows} of the documents' source {total:,} {verb} dropped: {each}.")
    if made := data.get("ids_made", 0):
        said.append(f"{number(made, 'document')} got an id by position, since an earlier document has the same id.")
    return said


def deaths(comparison: Comparison, quote: Quote) -> list[str]:
    """Who died, where, and of what; one line each."""
    return [f"{quote(d.method)}, seed {d.seed}, in {quote(d.phase)}: {quote(d.cause)}" for d in comparison.deaths]


def ranking(
    figure: Mapping[str, float | None], show: Callable[[float], str], quote: Quote, *, highest: bool = False
) -> str:
    """`a 1.0, b 2.0` from the lowest (or highest) on, of many their ends; empty where nothing was measured."""
    measured = [(name, value) for name, value in figure.items() if value is not None]
    measured.sort(key=lambda pair: -pair[1] if highest else pair[1])
    return ends([f"{quote(name)} {show(value)}" for name, value in measured])


def ends(words: Sequence[str]) -> str:
    """The words with commas; of more than MANY the first and the last ones, and how many stand between them."""
    if len(words) > MANY:
        words = [*words[: MANY - 2], f"{len(words) - MANY + 1:,} more", words[-1]]
    return ", ".join(words)


def efficiency(rows: Sequence[Row], quote: Quote) -> list[str]:
    """Seconds, tokens per second, epochs, and the epoch that was evaluated."""
    said = []
    training = {row.name: row.seconds["train"] for row in rows}
    if order := ranking(training, figures.seconds, quote):
        said.append(f"Seconds of training in a run, lowest first: {order}.")
    spent = [value for value in training.values() if value]
    if len(spent) > 1 and f"{max(spent) / min(spent):.2f}" != "1.00":
        said.append(f"The highest is {max(spent) / min(spent):.2f} times the lowest.")
    epochs = {row.name: row.epochs for row in rows}
    if len({value for value in epochs.values() if value}) > 1:
        passes = ", ".join(f"{quote(name)} {value}" for name, value in epochs.items() if value)
        each = {name: value / done for name, value in training.items() if value is not None and (done := epochs[name])}
        said.append(f"They were trained for different numbers of epochs: {passes}.")
        if order := ranking(each, figures.seconds, quote):
            said.append(f"Seconds of training in an epoch, lowest first: {order}.")
    early = [text for row in rows if (text := ended_early(row, quote))]
    if early:
        said.append(f"Training ended early, when the validation loss no longer fell: {'; '.join(early)}.")
    if order := ranking({row.name: row.tokens_per_second for row in rows}, figures.rate, quote, highest=True):
        said.append(f"Training tokens per second, highest first: {order}.")
    if order := ranking({row.name: row.seconds["total"] for row in rows}, figures.seconds, quote):
        said.append(f"Seconds of a whole run, lowest first: {order}.")
    kept = [text for row in rows if (text := evaluated(row, quote))]
    if kept and len(rows) <= MANY:
        said.append(f"Epoch with the lowest validation loss, which is the one evaluated: {'; '.join(kept)}.")
    return said


def evaluated(row: Row, quote: Quote) -> str:
    """`lora 3 of 3 (2.412 nats per label token)`, seed by seed; empty without a curve."""
    found = []
    for run in row.runs:
        kept = [point for point in run.epochs if point.get("best") and point.get("validation_loss") is not None]
        if kept and row.epochs:
            found.append(
                f"{kept[-1]['epoch']:.0f} of {row.epochs} ({kept[-1]['validation_loss']:.3f} nats per label token)"
            )
    return f"{quote(row.name)} {', '.join(found)}" if found else ""


def ended_early(row: Row, quote: Quote) -> str:
    """`lora after 4, 5 of 9 epochs (patience 2), which saved about 90 s of training a run`; empty where none did."""
    planned, patience = (row.runs[0].spec["training"].get(key) for key in ("epochs", "patience"))
    done = [int(run.epochs[-1]["epoch"]) for run in row.runs if run.epochs]
    if not planned or not patience or min(done, default=planned) == planned:
        return ""
    saved = [run.seconds["training"] / end * (planned - end) for run, end in zip(row.runs, done, strict=True) if end]
    return (
        f"{quote(row.name)} after {', '.join(map(str, done))} of {planned} epochs (patience {patience}), which saved "
        f"about {figures.seconds(sum(saved) / len(saved))} s of training a run at its own speed"
    )


def side_effects(rows: Sequence[Row], quote: Quote) -> list[str]:
    """What training made the model forget, and what an adapter costs while writing; empty where nobody asked."""
    said = []
    rise = {row.name: row.forgetting["after"] - row.forgetting["before"] for row in rows if row.forgetting}
    if order := ranking(rise, lambda value: f"{value:+.3f}", quote):
        said.append(f"Change of the cross-entropy of other text by training, nats per token, lowest first: {order}.")
    apart = {row.name: row.forgetting.get("divergence") for row in rows}
    if order := ranking(apart, figures.nats, quote):
        said.append(f"KL divergence from the base model on test prompts, nats per token, lowest first: {order}.")
    for form, what in (("attached", "with the adapter attached"), ("merged", "with the adapter merged")):
        spent = {row.name: row.inference.get(form, {}).get("seconds") for row in rows}
        if order := ranking(spent, figures.seconds, quote):
            said.append(f"Seconds a summary {what}, lowest first: {order}.")
    return said


def memory(rows: Sequence[Row], quote: Quote) -> list[str]:
    """The peaks that were measured."""
    said = []
    for counter in PEAKS:
        measured = {row.name: row.memory_bytes[counter] for row in rows}
        if order := ranking(measured, figures.size, quote):
            label = figures.MEMORY[counter].capitalize()
            said.append(f"{label} above the level before the model was loaded, lowest first: {order}.")
    return said


def parameters(rows: Sequence[Row], quote: Quote) -> list[str]:
    """What each method trains and adds, and what it leaves on disk."""
    said = []
    if len(rows) > MANY:
        trained = {row.name: row.parameters.trainable if row.parameters else None for row in rows}
        if order := ranking(trained, figures.count, quote):
            said.append(f"Trained parameters, lowest first: {order}.")
    for row in rows if len(rows) <= MANY else ():
        if row.parameters is None:
            continue
        once, ties = row.parameters, row.parameters.with_ties()
        added = f" It adds {figures.count(once.added)} to the base model." if once.added else ""
        said.append(
            f"{quote(row.name)} trains {figures.count(once.trainable)} of {figures.count(once.total)} parameters "
            f"({figures.share(once.trainable, once.total)}).{added}"
        )
        if ties != once:
            said.append(
                f"With tied tensors counted at each of their names {quote(row.name)} trains "
                f"{figures.count(ties.trainable)} of {figures.count(ties.total)}."
            )
    if order := ranking({row.name: row.adapter_bytes for row in rows}, figures.size, quote):
        said.append(f"Saved on disk, lowest first: {order}.")
    return said


def conclusion(comparison: Comparison, quote: Quote) -> list[str]:
    """What can be told apart, the extremes in one place, what went wrong, and who is missing."""
    rows = comparison.methods
    said = []
    if len(rows) > 1:
        tested = {metric: comparison.best(metric) for metric in comparison.verdicts if comparison.alike(metric)}
        if tested:
            best = [f"{comparison.label(metric)} {listing([quote(name) for name in names])}"
                    for metric, names in tested.items()]  # fmt: skip
            said.append(f"The best, with all that cannot be told from it: {'; '.join(best)}.")
        else:
            said.append("No method is called better, because the variance between seeds is not known.")
        said.append(means(comparison, quote))
        said += lowest(rows, quote)
    elif not rows:
        said.append("No trained method finished, so nothing is concluded.")
    else:
        said.append(
            f"{quote(rows[0].name)} is the only trained method that finished, so it is compared with controls alone."
        )
    said += failing(comparison, quote)
    if len({row.trials for row in rows if row.trials is not None}) > 1:
        counts = ", ".join(f"{quote(row.name)} {row.trials}" for row in rows if row.trials is not None)
        said.append(f"The methods were not tuned alike; settings tried on validation: {counts}.")
    return said + [f"Dead: {line}." for line in deaths(comparison, quote)]


def means(comparison: Comparison, quote: Quote) -> str:
    """Who has the best mean of each metric that carries verdicts."""
    found = [f"{comparison.label(metric)} {listing([quote(name) for name in comparison.highest(metric)])}"
             for metric in comparison.verdicts]  # fmt: skip
    word = "Best" if any(map(comparison.falls, comparison.verdicts)) else "Highest"
    return f"{word} means: {'; '.join(found)}."


def lowest(rows: Sequence[Row], quote: Quote) -> list[str]:
    """Who costs least, where not all cost the same."""
    costs: list[tuple[str, Mapping[str, float | None], Callable[[float], str]]] = [
        ("Fewest seconds of training", {row.name: row.seconds["train"] for row in rows}, figures.seconds),
        *(
            (f"Lowest {figures.MEMORY[counter]}", {row.name: row.memory_bytes[counter] for row in rows}, figures.size)
            for counter in PEAKS
        ),
        (
            "Fewest trained parameters",
            {row.name: row.parameters.trainable if row.parameters else None for row in rows},
            figures.count,
        ),
    ]
    said = []
    for label, figure, show in costs:
        names = extreme(figure, show, lowest=True)
        if 0 < len(names) < sum(value is not None for value in figure.values()):
            said.append(f"{label}: {listing([quote(name) for name in names])}.")
    return said


def failing(comparison: Comparison, quote: Quote) -> list[str]:
    """Which methods wrote summaries that are empty or cut, if any did."""
    limit = number(comparison.settings.task.max_target_tokens, "token")
    said = []
    for metric, words in (("empty", "Empty summaries"), ("cut", f"Summaries that the limit of {limit} cut")):
        rates = {row.name: row.metrics[metric].mean or None for row in comparison.methods if metric in row.metrics}
        if order := ranking(rates, lambda rate: f"{100 * rate:.3g} %", quote, highest=True):
            said.append(f"{words}, highest first: {order}.")
    return said
