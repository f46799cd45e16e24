"""What the speed lab found: ratios with their intervals, utilisation, a table and a plot."""

import json
import math
from pathlib import Path
from typing import Any

import numpy
from scipy import stats
from tabulate import tabulate

from bakeoff.config import hardware
from lab.speed import shapes, work

COLUMNS = ("shape", "method", "phase", "opponent", "median", "minimum", "low", "high", "rounds", "best")
OPPONENTS = ("trainer", "generate")
"""How the names of arms begin that are not Bakeoff's."""
WHY = {
    "bf16": "It multiplies bf16 in hardware, so Bakeoff and its opponents compute in bf16.",
    "fp32": "It has no bf16 products in hardware, so Bakeoff and its opponents compute in fp32, the fastest there is.",
}
BUSY = 0.1
"""Share of the processors used by others from which a figure is doubted."""
SPREAD = 1.3
"""Longest over shortest round from which a figure is doubted."""
ABOUT = """The figures are ratios, opponent over Bakeoff: seconds of training, seconds of generating the test set's
summaries, and bytes of memory above the level after loading. Above 1, Bakeoff is ahead.

- Both sides train the same method on the same documents with the same effective batch, micro-batch, optimizer and
  schedule. Both evaluate one document before the first epoch and after every epoch. Epochs: EPOCHS.
- Each arm runs in a process of its own with two threads, and arms take turns. Bakeoff's seconds include filling
  its caches. They exclude loading a model, as the opponent's do, and compiling the C kernels, which happens once
  and takes seconds.
- `trainer` gets Bakeoff's order of documents and `trainer-grouped` its own group_by_length. The one that is
  slower with LoRA runs with no other method and in no other round. Trainer's frozen weights are fp32, its
  default.
- `generate-N` decodes N prompts of similar length at a time, with LoRA merged into the weights before.
- If Bakeoff computes in bf16, the fp32 row compares it with Trainer's default on the same documents, in the first
  round.
- `without SWITCH` is Bakeoff with that setting false, once, after the first round. It shows what one optimisation
  brings.
- `best` marks the strongest opponent of its kind, the one that counts. `low` and `high` bound the 95 % t interval
  of the mean log ratio over rounds."""
LIMITS = f"""The measurement refuses to report beyond these limits:

- fp32: losses differ by at most {work.EXACT:g} nats, then log-probabilities and texts are compared with the same
  weights. Adam's epsilon is {work.EPSILON:g} on both sides; otherwise its first step is the sign of a gradient,
  however close to 0.
- bf16, and fp32 over all documents: losses differ by at most {work.BF16_LOSS:.0%}.
- bf16: log-probabilities of likely tokens with the same weights differ by at most {work.BF16_LOGITS:g} nats
  (mean)."""


def ratio(theirs: list[dict[str, Any]], ours: list[dict[str, Any]], what: str) -> dict[str, Any]:
    """`what` of theirs / of ours in the same round: median, minimum, 95 % t interval of the mean log (None for one)."""
    values = [a[what] / b[what] for a in theirs for b in ours if a["round"] == b["round"]]
    logs = [math.log(value) for value in values]
    low = high = None
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * float(numpy.std(logs, ddof=1)) / math.sqrt(len(logs))
        low, high = math.exp(numpy.mean(logs) - half), math.exp(numpy.mean(logs) + half)
    return {"median": float(numpy.median(values)), "minimum": min(values), "low": low, "high": high,
            "rounds": len(values)}  # fmt: skip


def ratios(found: dict[str, list[dict[str, Any]]], own: str) -> list[dict[str, Any]]:
    """Every opponent's arm against Bakeoff's of the same work; `own` is the precision that Bakeoff takes."""
    rows = []
    for key, arms in found.items():
        kind, shape, method, who, precision, part = key.split("/")
        ours = found.get(f"{kind}/{shape}/{method}/bakeoff/{own}/{part}")
        if who == "bakeoff" or part == "subset" or not ours:
            continue
        if not {arm["round"] for arm in arms} & {arm["round"] for arm in ours}:
            continue
        same = {"method": method, "shape": shape, "opponent": f"{who} {precision}"}
        rows.append({**same, "phase": kind, **ratio(arms, ours, "seconds")})
        if kind == "train" and who == "trainer" and all(arm["peak"] for arm in (*arms, *ours)):
            rows.append({**same, "phase": "memory", **ratio(arms, ours, "peak")})
    best: dict[tuple[str, ...], float] = {}
    for row in rows:
        if row["opponent"].startswith(OPPONENTS):
            best[kind_of(row)] = min(row["median"], best.get(kind_of(row), math.inf))
    for row in rows:
        row["best"] = row["opponent"].startswith(OPPONENTS) and row["median"] == best[kind_of(row)]
    return sorted(rows, key=lambda row: (row["shape"], row["phase"], row["method"], row["opponent"]))


def kind_of(row: dict[str, Any]) -> tuple[str, ...]:
    """What rows have in common that compete with each other: shape, phase, method and precision."""
    return row["shape"], row["phase"], row["method"], row["opponent"].split()[-1]


def utilisation(
    found: dict[str, list[dict[str, Any]]], peaks: dict[str, dict[int, dict[str, float]]], own: str
) -> list[dict]:
    """FLOPs of a training / its seconds without evaluation / the fastest product of the same round; the median.

    Of a method's trainings on a shape the longest counts. `peaks`: shape -> round -> FLOP/s by product.
    """
    rows: dict[tuple[str, str], dict] = {}
    for key, arms in found.items():
        kind, shape, method, who, precision, part = key.split("/")
        if (kind, who, precision) == ("train", "bakeoff", own) and part != "subset" and peaks.get(shape):
            pairs = [(arm, peaks[shape][arm["round"]]) for arm in arms if arm["round"] in peaks[shape]]
            values = [arm["flops"] / arm["training"] / max(peak.values()) for arm, peak in pairs]
            steps = len(arms[0]["losses"])
            if values and steps > rows.get((method, shape), {"steps": 0})["steps"]:
                value = float(numpy.median(values))
                rows[method, shape] = {"method": method, "shape": shape, "steps": steps, "value": value}
    return list(rows.values())


def warnings(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What makes the figures doubtful: others computed meanwhile, or an arm's rounds lie far apart."""
    lines = []
    for key, arms in found.items():
        others = max((arm["load"]["others"] or 0.0 for arm in arms), default=0.0)
        if others > BUSY:
            lines.append(f"{key}: others used up to {others:.0%} of the processors meanwhile")
        seconds = [arm["seconds"] for arm in arms]
        if max(seconds) > SPREAD * min(seconds):
            lines.append(f"{key}: its rounds took {min(seconds):.1f} to {max(seconds):.1f} s")
    return lines


UTILISATION = """MFU is the FLOPs of a training, over its seconds without evaluation, over the peak of a matrix
product. Each layer counts for each token and the output head for label tokens, as is usual. What Bakeoff saves in
the last layer and by shared prefixes (a soft prompt's) is not subtracted. The peak is measured just before LoRA,
whose training is as long as that of a bake-off; the other trainings are those of the ratios. What happens once in a
training, and the first step, are included."""


def write(folder: Path, lab: Any, growth: list[dict[str, Any]], scored: dict[str, float] | None = None) -> str:
    """Writes results.json, report.md and ratios.png; returns the table of ratios."""
    folder.mkdir(parents=True, exist_ok=True)
    own = lab.precision
    rows, mfu = ratios(lab.found, own), utilisation(lab.found, lab.peaks, own)
    doubts = [*warnings(lab.found), *(f"left out for lack of time: {line}" for line in lab.left_out)]
    arms = {key: [{k: v for k, v in arm.items() if k != "logits"} for arm in found] for key, found in lab.found.items()}
    result = {
        "schema": 1, "precision": own, "ratios": rows, "mfu": mfu, "checks": lab.checks, "peaks": lab.peaks,
        "growth": growth, "scored": scored, "warnings": doubts, "environment": hardware.environment(), "arms": arms,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    table = tabulate([[show(row[column]) for column in COLUMNS] for row in rows], COLUMNS, tablefmt="github")
    here = hardware.environment()["processor"]
    epochs = zip(shapes.METHODS, shapes.SHAPES["quick"].epochs, strict=True)
    about = ABOUT.replace("EPOCHS", ", ".join(f"{method} {number}" for method, number in epochs))
    parts = ["# Speed\n", f"Processor: {here}. {WHY[own]}\n", about, "\n## Ratios\n", table]
    if rows:
        plot(rows, folder / "ratios.png")
        parts.append("\n![Median ratios with their intervals](ratios.png)")
    parts.append(f"\n## Utilisation\n\n{UTILISATION}\n")
    parts.append(tabulate([[row["method"], row["shape"], row["steps"], f"{row['value']:.0%}"] for row in mfu],
                          ["method", "shape", "optimizer steps", "MFU"], tablefmt="github"))  # fmt: skip
    for shape, found in lab.peaks.items():
        best = max((value, name) for peak in found.values() for name, value in peak.items())
        parts.append(f"\nPeak beside `{shape}`: {best[0] / 1e9:.0f} GFLOP/s ({best[1]}).")
    parts.append("\n## Equal work\n")
    parts.append(tabulate([[c["what"], c["kind"], f"{c['value']:.2g}"] for c in lab.checks],
                          ["arms", "check", "largest difference (of log-probabilities the mean), or number"],
                          tablefmt="github"))  # fmt: skip
    parts.append(f"\n{LIMITS}\n\n## Growth\n")
    parts.append(tabulate([{**row, "resident MB": row["resident_bytes"] / 1e6} for row in growth], headers="keys",
                          tablefmt="github", floatfmt=".1f"))  # fmt: skip
    if scored:
        text = (
            "\nScoring {summaries:,} summaries of 128 words takes {seconds:.1f} s in one thread; {same} of {compared} "
        )
        parts.append((text + "score as with rouge-score.").format(**scored))
    parts.append("\n## Doubts\n\n" + ("\n".join(f"- {line}" for line in doubts) or "None: nothing else computed."))
    (folder / "report.md").write_text("\n".join(parts) + "\n")
    return "\n".join([table, *(f"warning: {line}" for line in doubts), f"report: {folder / 'report.md'}"])


def show(value: Any) -> str:
    """A cell."""
    if isinstance(value, bool):
        return "yes" if value else ""
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Median ratio of every row with its interval; 1 is a draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = rows[::-1]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color="0.6", linewidth=3, solid_capstyle="butt")
        axes.plot(row["median"], place, "o", color={"train": "C0", "generate": "C1", "memory": "C2"}[row["phase"]])
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{r['shape']} {r['method']} {r['phase']}: {r['opponent']}" for r in rows])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.set_xlabel("opponent / Bakeoff, 95 % interval over rounds")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
