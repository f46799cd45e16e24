"""Soft prompts against discrete ones: the best of some instructions, and virtual tokens from text and at random."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

from bakeoff.core.errors import UsageError
from bakeoff.metrics.rouge import METRICS
from bakeoff.report.comparison import Comparison, Row, compare
from bakeoff.report.escape import markdown
from bakeoff.report.figures import ROUGE, listing, nats, number, p_value
from bakeoff.report.plots.drawing import COLOURS, GREY, MARKERS, UNIT
from bakeoff.report.table import text_table
from bakeoff.session.session import Session
from bakeoff.stats.pairs import Pair, Side, family
from lab.studies import verdicts
from lab.studies.page import Page, Plot, canvas, styled
from lab.studies.running import Results, Runs
from lab.studies.virtual import Nearest, neighbours

QUESTION = (
    "Is a soft prompt (Lester et al. 2021) better than a good instruction? The best of some hand-written instructions "
    "is compared with soft prompts of several lengths, each started from the words of a text and at random."
)
BEST, OWN, PLAIN = "best instruction", "the task's own instruction", "no instruction"
UNTRAINED = "null"
"""A method that changes nothing, whose validation loss before training is the base model's."""
VALIDATED = (f"methods.{UNTRAINED}.epochs=0", "task.test=1")
"""`--set` texts for a run of UNTRAINED that is made for its validation loss."""
ASKED = {"chat": "asked through the model's chat template", "plain": "as whole prompts"}
SHOWN = 20
"""Virtual tokens of a row whose nearest words are shown."""


@dataclass(frozen=True)
class Asked:
    """`[study]` of this study."""

    instructions: tuple[str, ...] = ()
    """Each with {document} once: user's turns of the chat template, or whole prompts."""
    template: Literal["chat", "plain"] = "chat"
    """How the model is asked: `plain` is for a model without a chat template."""


@dataclass(frozen=True)
class Study:
    """Everything that the report shows."""

    compared: Comparison
    """The soft prompts, and the best instruction as a control."""
    found: Results
    others: Mapping[str, Row]
    """The instruction of the task and the plain prompt, on the same documents."""
    instructions: Mapping[str, float]
    """Validation loss by instruction."""
    best: str
    tokens: Mapping[str, int]
    """Virtual tokens by row."""
    nearest: Mapping[str, Sequence[Nearest]]
    """By row, one a seed."""

    @property
    def text(self) -> list[str]:
        """Rows that start from text, by length."""
        return self.started(True)

    @property
    def random(self) -> list[str]:
        """Rows that start at random, by length."""
        return self.started(False)

    def started(self, text: bool) -> list[str]:
        """Rows by how they start, shortest first."""
        ours = [name for name in self.tokens if bool(self.found[name][0].spec["hyperparameters"]["text"]) is text]
        return sorted(ours, key=self.tokens.__getitem__)

    def side(self, name: str) -> Side:
        """A row for a test."""
        [row] = [row for row in self.compared.rows if row.name == name]
        return Side(name, row.scores, row.control)


def study(runs: Runs) -> Page:
    """Makes the study's runs; returns its report."""
    asked = runs.asked(Asked)
    if not asked.instructions:
        raise UsageError(f"{runs.settings.source}: study soft-prompts needs a list of texts, study.instructions")
    rows = runs.rows("soft-prompt")
    once = [*VALIDATED, f"seeds=[{runs.settings.seeds[0]}]"]  # no seed changes what is not trained
    sessions = {text: runs.plan([UNTRAINED], [*said(text, asked), *once]) for text in asked.instructions}
    trained = runs.plan(rows)
    plain = runs.plan([UNTRAINED], ["methods.zero-shot.prompt=plain"])
    measured = runs.each(lambda session: untrained_loss(runs, session), list(sessions.values()))
    losses = dict(zip(sessions, measured, strict=True))
    best = min(losses, key=lambda text: losses[text])
    winner = runs.plan([UNTRAINED], said(best, asked))
    found = runs.results(trained, rows)
    controls = {name: runs.results(session, ["zero-shot"])["zero-shot"]
                for name, session in ((BEST, winner), (OWN, trained), (PLAIN, plain))}  # fmt: skip
    others = compare(runs.settings, {name: controls[name] for name in (OWN, PLAIN)})
    compared = compare(runs.settings, {**found, BEST: controls[BEST]})
    tokens = {name: int(ours[0].spec["hyperparameters"]["virtual_tokens"]) for name, ours in found.items()}
    everything = {**found, **controls}
    near = neighbours(runs, found)
    made = Study(compared, everything, {row.name: row for row in others.rows}, losses, best, tokens, near)
    return page(runs, made)


def said(text: str, asked: Asked) -> list[str]:
    """`--set` texts that ask with an instruction."""
    key = "instruction" if asked.template == "chat" else "prompt"
    return [f"task.{key}={json.dumps(text)}", f"task.template={asked.template}",
            f"methods.zero-shot.prompt={asked.template}"]  # fmt: skip


def untrained_loss(runs: Runs, session: Session) -> float:
    """Nats per label token of the validation split by the base model, asked as the session's settings say."""
    [run] = runs.results(session, [UNTRAINED])[UNTRAINED][:1]
    return float(run.epochs[0]["validation_loss"])


def page(runs: Runs, study: Study) -> Page:
    """The report of what was found."""
    seen = {run.fingerprint: run for ours in study.found.values() for run in ours}
    made = Page(runs.name, QUESTION, runs.settings, list(seen.values()))
    lengths = [length_loss(study, study.text, "text"), length_loss(study, study.random, "random")]
    made.findings += [*against_best(study), *by_start(study)]
    made.findings += [sentence for test in lengths for sentence in test.sentences()]
    made.findings += near_sentences(study)
    made.figures += [
        f"ROUGE is the mean F1 x 100 over test documents and seeds, with its 95 % interval over both. The validation "
        f"loss (nats per label token) is the mean over seeds ± their standard deviation. Rows are called by how they "
        f"start and by their number of virtual tokens. {BEST.capitalize()} is the one with the lowest validation loss.",
        quality(study),
        Plot("length", draw(study), "Validation loss and ROUGE over the number of virtual tokens, by start"),
        f"The instructions, {ASKED[runs.asked(Asked).template]}, by their validation loss:",
        instruction_table(study),
        "Each virtual token beside the token of the vocabulary with the highest cosine to it. The norm is relative to "
        "the mean of the vocabulary's embeddings. All are means over virtual tokens and seeds.",
        near_table(study),
        f"The nearest tokens of the first seed, for rows of at most {SHOWN} virtual tokens:",
        word_table(study),
    ]
    made.method += [
        "Instruction: the validation loss of each is the cross-entropy of the reference summaries by the untrained "
        "model. The test documents took no part in the choice.",
        "ROUGE: every soft prompt against the best instruction, and every length from text against the same length at "
        "random, on the same documents (docs/statistics.md). p is Holm-corrected over the pairs of a family and a "
        "metric. It covers another draw of documents and of seeds.",
        "Validation loss: Welch's t-test over seeds, Holm-corrected over the pairs of a start. It does not cover other "
        "documents.",
        "Soft prompts stand before the plain prompt of the task and not in the chat template, as in other reports.",
    ]
    task = runs.settings.task
    made.limits += [
        f"{number(len(runs.settings.seeds), 'seed')} and {number(len(study.compared.document_ids), 'test document')}: "
        "rows that cannot be told apart here may differ.",
        f"All soft prompts had one learning rate, and {number(task.train, 'training document')}. A longer prompt, or a "
        "random start, may need another rate and more steps.",
        "Other instructions may be better than these. They were written by hand before anything was measured, and only "
        "the choice among them used data.",
        "The nearest token is not what a virtual token means: at a low cosine, no word says what it does.",
    ]
    made.varied = {"instructions": str(len(study.instructions)), "virtual tokens": ", ".join(
        map(str, dict.fromkeys(study.tokens.values())))}  # fmt: skip
    made.results = results(study)
    return made


def against_best(study: Study) -> list[str]:
    """Which soft prompts are above or below the best instruction, metric by metric."""
    pairs = family(((study.side(name), study.side(BEST)) for name in study.tokens), METRICS)
    return [f"{ROUGE[metric]}: {split_up([p for p in pairs if p.metric == metric], BEST)}" for metric in METRICS]


def split_up(pairs: Sequence[Pair], rival: str) -> str:
    """Who is above, below, and not to be told from `rival`, in a sentence."""
    groups: dict[str, list[str]] = {"above": [], "below": [], "": []}
    for pair in pairs:
        word = ("above" if pair.higher == pair.first else "below") if pair.different else ""
        groups[word].append(f"{markdown(pair.first)} (p {p_value(pair.p)})" if word else markdown(pair.first))
    parts = [f"{listing(groups[word])} {'is' if len(groups[word]) == 1 else 'are'} {word} the {rival}"
             for word in ("above", "below") if groups[word]]  # fmt: skip
    if groups[""]:
        rest = "no soft prompt" if len(groups[""]) == len(pairs) else listing(groups[""])
        parts.append(f"{rest} {'can' if len(groups['']) == len(pairs) else 'cannot'} be told from the {rival}")
    return "; ".join(parts) + "."


def by_start(study: Study) -> list[str]:
    """Whether a start from text is better than one at random, at each length."""
    couples = [(a, b) for a in study.text for b in study.random if study.tokens[a] == study.tokens[b]]
    pairs = family(((study.side(a), study.side(b)) for a, b in couples), METRICS)
    found = []
    for metric in METRICS:
        apart = [pair for pair in pairs if pair.metric == metric and pair.different]
        said_ = [f"{markdown(p.higher)} is above {markdown(p.first if p.higher == p.second else p.second)} "
                 f"(p {p_value(p.p)})" for p in apart]  # fmt: skip
        tail = "the two starts cannot be told apart at any length" if not apart else listing(said_)
        if apart and len(apart) < len(couples):
            tail += "; at the other lengths, the two starts cannot be told apart"
        found.append(f"{ROUGE[metric]}, text against random: {tail}.")
    return found if couples else []


def length_loss(study: Study, rows: Sequence[str], start: str) -> verdicts.Verdict:
    """Validation losses of the lengths of one start."""
    return verdicts.welch(
        f"Validation loss, {start} start", verdicts.losses({name: study.found[name] for name in rows})
    )


def near_sentences(study: Study) -> list[str]:
    """How far learned tokens are from words."""
    parts = []
    for rows, start in ((study.text, "from text"), (study.random, "at random")):
        cosines = [one for name in rows for run in study.nearest[name] for one in run.cosines]
        if cosines:
            parts.append(f"{mean(cosines):.2f} for a start {start}")
    kept = [run.kept for name in study.text for run in study.nearest[name] if run.kept is not None]
    found = [f"Mean cosine of a learned virtual token to the nearest token of the vocabulary: {listing(parts)}."]
    if kept:
        share = f"{100 * mean(kept):.0f} %"
        found.append(
            f"Of the virtual tokens that started from a word, {share} are still nearest to it (mean over rows, seeds)."
        )
    return found


def quality(study: Study) -> str:
    """A row for each soft prompt and instruction."""
    losses = verdicts.losses(study.found)
    none: dict[str, dict[str, str]] = {metric: {} for metric in ROUGE}
    cells = [[name, *verdicts.rouge_cells(study.compared, name, none), verdicts.with_spread(losses.get(name))]
             for name in (*study.text, *study.random)]  # fmt: skip
    cells.append(
        [f"**{BEST}**", *verdicts.rouge_cells(study.compared, BEST, none), nats(study.instructions[study.best])]
    )
    cells += [[name, *verdicts.row_cells(row, none), "–"] for name, row in study.others.items()]
    return text_table(["row", *ROUGE.values(), "validation loss"], cells)


def instruction_table(study: Study) -> str:
    """The instructions, best first."""
    order = sorted(study.instructions.items(), key=lambda pair: pair[1])
    return text_table(["instruction", "validation loss"], [[markdown(repr(t)[1:-1]), nats(v)] for t, v in order])


def near_table(study: Study) -> str:
    """Cosine, norm and share that stayed, by row."""
    cells = []
    for name in (*study.text, *study.random):
        ours = study.nearest[name]
        kept = [one.kept for one in ours if one.kept is not None]
        cells.append([name, f"{mean(mean(one.cosines) for one in ours):.2f}", f"{mean(one.norm for one in ours):.2f}",
                      f"{100 * mean(kept):.0f} %" if kept else "–"])  # fmt: skip
    return text_table(["row", "cosine to the nearest", "relative norm", "nearest to its own start"], cells)


def word_table(study: Study) -> str:
    """The nearest words, by row."""
    rows = [name for name in (*study.text, *study.random) if study.tokens[name] <= SHOWN]
    cells = [[name, markdown(" · ".join(repr(word)[1:-1] for word in study.nearest[name][0].words))] for name in rows]
    return text_table(["row", "nearest tokens, in order"], cells)


def results(study: Study) -> dict[str, Any]:
    """What results.json holds."""
    return {
        "rows": verdicts.stored(study.found, study.compared),
        "virtual_tokens": dict(study.tokens),
        "instructions": [{"text": text, "validation_loss": loss} for text, loss in study.instructions.items()],
        "best_instruction": study.best,
        "nearest": {
            name: [{"tokens": list(one.words), "cosines": [round(c, 4) for c in one.cosines],
                    "relative_norm": one.norm, "nearest_to_start": one.kept} for one in ours]
            for name, ours in study.nearest.items()
        },
    }  # fmt: skip


def draw(study: Study) -> Any:
    """Three panels over the number of virtual tokens."""
    losses = verdicts.losses(study.found)
    rows = {row.name: row for row in study.compared.rows}
    with styled():
        figure = canvas(10.5, 3.6)
        panels = figure.subplots(1, 3)
        for place, (names, label) in enumerate(((study.text, "start from text"), (study.random, "start at random"))):
            colour, marker, shift = COLOURS[place], MARKERS[place], (0.97, 1.03)[place]
            at = [study.tokens[name] * shift for name in names]
            panels[0].plot(at, [mean(losses[name]) for name in names], color=colour, marker=marker, ms=5, label=label)
            for x, name in zip(at, names, strict=True):
                panels[0].plot([x] * len(losses[name]), losses[name], ls="", marker=".", color=colour, alpha=0.5)
            for ax, metric in zip(panels[1:], ("rouge1", "rougeL"), strict=True):
                ours = [rows[name].rouge[metric] for name in names]
                ax.plot(at, [100 * one.mean for one in ours], color=colour, marker=marker, ms=5)
                for x, one in zip(at, ours, strict=True):
                    if one.low is not None and one.high is not None:
                        ax.plot([x, x], [100 * one.low, 100 * one.high], color=colour, lw=1)
        best = study.instructions[study.best]
        panels[0].axhline(best, color=GREY, ls="--", label=BEST)
        panels[0].set_ylabel(f"validation {UNIT}", fontsize=9)
        for ax, metric in zip(panels[1:], ("rouge1", "rougeL"), strict=True):
            one = rows[BEST].rouge[metric]
            ax.axhline(100 * one.mean, color=GREY, ls="--")
            if one.low is not None and one.high is not None:
                ax.axhspan(100 * one.low, 100 * one.high, color=GREY, alpha=0.15, lw=0)
            ax.set_ylabel(f"{ROUGE[metric]} F1 x 100", fontsize=9)
            ax.set_ylim(bottom=0)
        ticks = sorted(set(study.tokens.values()))
        for ax in panels:
            ax.set_xscale("log")
            ax.set_xticks(ticks, [str(tick) for tick in ticks])
            ax.minorticks_off()
            ax.set_xlabel("virtual tokens")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
