"""Results that others published, from bench/published/*.toml: counts that must match, scores to look at."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bakeoff.config import project
from bakeoff.config.presets import find_beside, preset_names, read_toml
from bakeoff.config.schema import Settings, setting
from bakeoff.core.errors import UsageError, nearest
from bakeoff.core.validation import at, build
from bakeoff.methods.parameters import ParameterCounts

COUNTS = ("total", "trainable", "frozen", "added")


@dataclass(frozen=True)
class Figures:
    """What was published of one method; None where it was not."""

    total: int | None = setting(None, minimum=0)
    trainable: int | None = setting(None, minimum=0)
    frozen: int | None = setting(None, minimum=0)
    added: int | None = setting(None, minimum=0)
    rouge1: float | None = setting(None, minimum=0.0, maximum=1.0)
    """F1 in 0..1, like the next two."""
    rouge2: float | None = setting(None, minimum=0.0, maximum=1.0)
    rougeL: float | None = setting(None, minimum=0.0, maximum=1.0)
    train_minutes: float | None = setting(None, minimum=0.0)
    allocated_gb: float | None = setting(None, minimum=0.0)
    """GB of 10^9 bytes, like the next three."""
    max_allocated_gb: float | None = setting(None, minimum=0.0)
    reserved_gb: float | None = setting(None, minimum=0.0)
    max_reserved_gb: float | None = setting(None, minimum=0.0)


@dataclass(frozen=True)
class Published:
    """One published table."""

    preset: str = ""
    """The preset that it stands beside."""
    model: str = ""
    task: str = ""
    source: str = ""
    """Who published it."""
    note: str = ""
    """What a reader must know about it."""
    ties: bool = False
    """Whether its counts have a tied tensor at each of its names."""
    methods: Mapping[str, Figures] = setting({})

    def mismatches(self, name: str, counts: ParameterCounts) -> list[str]:
        """The published counts of a method that are not `counts`, in words; [] where all match."""
        theirs = self.methods[name]
        ours = counts.with_ties() if self.ties else counts
        return [
            f"{name}: {field} = {getattr(ours, field):,}, published {published:,}"
            for field in COUNTS
            if (published := getattr(theirs, field)) is not None and published != getattr(ours, field)
        ]


def load(path: Path) -> Published:
    """The table in one file. Raises UsageError with file and line for what is not as it must be."""
    where = str(path)
    values = read_toml(path)
    methods = values.pop("methods", {})
    if not isinstance(methods, dict) or not methods or not all(isinstance(table, dict) for table in methods.values()):
        raise UsageError(f"{at(where, 'methods')}: methods: expected tables [methods.NAME], at least one")
    found = build(Published, values, where)
    for key in ("preset", "model", "task", "source"):
        if not getattr(found, key):
            raise UsageError(f"{at(where, key)}: {key}: expected a text, for example {key} = {EXAMPLES[key]!r}")
    if found.preset not in preset_names():
        raise UsageError(f"{at(where, 'preset')}: preset = {found.preset!r}; {nearest(found.preset, preset_names())}")
    figures = {name: build(Figures, table, where, f"methods.{name}.") for name, table in methods.items()}
    for name, one in figures.items():
        if None not in (one.total, one.trainable, one.frozen) and one.total != one.trainable + one.frozen:
            raise UsageError(
                f"{at(where, f'methods.{name}.total')}: methods.{name}.total = {one.total}: expected "
                f"trainable + frozen, {one.trainable + one.frozen}"
            )
    return dataclasses.replace(found, methods=figures)


EXAMPLES = {"preset": "quick", "model": "smollm2-135m", "task": "aclsum/outcome", "source": "Smith et al. 2024"}


def beside(settings: Settings) -> list[Published]:
    """The published tables of a bake-off's preset, where it still has the table's model and task. Raises UsageError."""
    names = {path.name for folder in project.places("bench", "published") for path in folder.glob("*.toml")}
    tables = [load(path) for name in sorted(names) if (path := find_beside(settings, "bench", "published", name))]
    asked = (settings.preset, settings.model.name, settings.task.name)
    return [table for table in tables if (table.preset, table.model, table.task) == asked]
