"""What the speed lab found: ratios with their intervals, utilisation, a table and a plot."""

import json
import math
from pathlib import Path
from typing import Any

import numpy
from scipy import stats


def growth(store: Any, short: bool) -> list[dict[str, Any]]:
    """Rows of the growth table."""
    return []


def ratio(theirs: list[float], ours: list[float]) -> dict[str, Any]:
    """theirs / ours round by round: median, minimum, and the 95 % t interval of the mean logarithm (None for one)."""
    values = [a / b for a, b in zip(theirs, ours, strict=False)]
    logs = [math.log(value) for value in values]
    low = high = None
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1)) * float(numpy.std(logs, ddof=1)) / math.sqrt(len(logs))
        low, high = math.exp(numpy.mean(logs) - half), math.exp(numpy.mean(logs) + half)
    return {"median": float(numpy.median(values)), "minimum": min(values), "low": low, "high": high,
            "rounds": len(values)}  # fmt: skip


def ratios(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every opponent's arm against Bakeoff's of the same work."""
    rows = []
    for key, arms in found.items():
        kind, shape, method, who, precision, part = key.split("/")
        ours = found.get(f"{kind}/{shape}/{method}/bakeoff/bf16/{part}")
        if who == "bakeoff" or not ours or (part == "subset") != (precision == "fp32"):
            continue
        same = {"method": method, "shape": shape, "opponent": f"{who} {precision}"}
        rows.append({**same, "phase": kind, **ratio([a["seconds"] for a in arms], [a["seconds"] for a in ours])})
        if kind == "train" and who == "trainer" and all(arm["peak"] for arm in (*arms, *ours)):
            rows.append({**same, "phase": "memory", **ratio([a["peak"] for a in arms], [a["peak"] for a in ours])})
    return sorted(rows, key=lambda row: (row["shape"], row["phase"], row["method"], row["opponent"]))


def write(folder: Path, lab: Any, growth: list[dict[str, Any]]) -> str:
    """Writes results.json and report.md; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ratios(lab.found)
    result = {"ratios": rows, "mfu": [], "checks": lab.checks, "peaks": lab.peaks, "growth": growth, "arms": lab.found}
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    return "\n".join(
        f"{r['shape']:6} {r['method']:12} {r['phase']:9} against {r['opponent']:22} median {r['median']:.2f} "
        f"minimum {r['minimum']:.2f} rounds {r['rounds']}"
        for r in rows
    )
