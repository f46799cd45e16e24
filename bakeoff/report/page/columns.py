"""What a result says of each method: intervals of metrics, and figures with their names, units and groups."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bakeoff.report import figures
from bakeoff.report.table import COUNTS, TIMES

Figures = Mapping[str, Any]
"""Of one method, as results.json holds them under methods.NAME."""
BOUNDS = ("mean", "low", "high")


@dataclass(frozen=True)
class Column:
    """One figure of every method."""

    key: str
    label: str
    group: str
    """seconds, memory, parameters or effects: the table in which it stands."""
    figure: Callable[[Figures], Any]
    show: Callable[[float], str]
    best: str = ""
    """Which extreme a reader looks for: highest, lowest, or none."""
    cost: bool = False
    """Whether it may stand on the horizontal axis beside a score."""


def at(*keys: str) -> Callable[[Figures], Any]:
    """What stands under `keys`; None where one of them is missing."""

    def find(found: Any) -> Any:
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    return find


def forgotten(found: Figures) -> float | None:
    """By how much the cross-entropy of other text rose, nats per token."""
    before, after = at("forgetting", "before")(found), at("forgetting", "after")(found)
    return None if before is None or after is None else after - before


COLUMNS = (
    *(
        Column(name, label, "seconds", at("seconds", name), figures.seconds, "lowest", name in ("train", "total"))
        for name, label in TIMES.items()
    ),
    Column("rate", "training tokens/s", "seconds", at("tokens_per_second"), figures.rate, "highest"),
    *(
        Column(name, label, "memory", at("memory_bytes", name), figures.size, "lowest", name.startswith("max_"))
        for name, label in figures.MEMORY.items()
    ),
    Column("adapter", "adapter size", "memory", at("adapter_bytes"), figures.size, "lowest", True),
    *(
        Column(f"parameters_{name}", f"{label} parameters", "parameters", at("parameters", name), figures.count,
               cost=name == "trainable")
        for name, label in COUNTS.items()
    ),
    *(
        Column(f"ties_{name}", f"{label} parameters, with ties", "parameters", at("parameters_with_ties", name),
               figures.count)
        for name, label in COUNTS.items()
    ),
    Column("trials", "settings tried on validation", "parameters", at("trials"), figures.count),
    Column("forgetting", "forgetting, nats per token", "effects", forgotten, figures.nats, "lowest", True),
    Column("divergence", "KL from the base model", "effects", at("forgetting", "divergence"), figures.nats, "lowest"),
    *(
        column
        for form in ("attached", "merged")
        for column in (
            Column(f"{form}_seconds", f"a summary, {form}, s", "effects", at("inference", form, "seconds"),
                   figures.seconds, "lowest", True),
            Column(f"{form}_bytes", f"weights, {form}", "effects", at("inference", form, "bytes"), figures.size,
                   "lowest"),
        )
    ),
)  # fmt: skip


def intervals(found: Figures) -> dict[str, dict[str, Any]]:
    """By metric its mean, low and high: those of ROUGE, then those of every other table of intervals."""
    tables = [found.get("rouge"), *(table for key, table in found.items() if key != "rouge")]
    every: dict[str, dict[str, Any]] = {}
    for table in filter(interval_table, tables):
        for metric, interval in table.items():
            every.setdefault(metric, interval)
    return every


def interval_table(table: Any) -> bool:
    """Whether it holds nothing but intervals."""
    return (
        isinstance(table, dict)
        and bool(table)
        and all(isinstance(one, dict) and set(BOUNDS) <= one.keys() for one in table.values())
    )
