"""What `--method` names, and the settings of each: hyperparameters and training recipe."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.config.presets import parse_change
from bakeoff.config.schema import Settings, TrainingSettings
from bakeoff.core.errors import UsageError, nearest
from bakeoff.core.validation import at, build
from bakeoff.methods.registry import ALL, EVERY, TRAINING_KEYS, Entry, known_methods, load_file

BASE = "base"
"""The key of a table `[methods.ROW]` that makes it a row of its own, of this method with the table's settings."""


def select(asked: Sequence[str], settings: Settings | None = None) -> list[Entry]:
    """What `--method` names (a name, a group, a file, several with commas), each once, then all controls.

    A name may carry settings, as `lora:rank=8:alpha=16`, which makes it a row of its own; so does a table
    `[methods.ROW]` of `settings` with a `base`. Raises UsageError for an unknown name, with the nearest, and for two
    methods of one name.
    """
    known = known_methods()
    groups = grouped(known.values())
    known |= {entry.name: entry for entry in rows(settings, known)}
    chosen: dict[str, Entry] = {}
    for word in (part.strip() for text in asked for part in text.split(",")):
        if word in known:
            found = [known[word]]
        elif word in groups:
            found = groups[word]
        elif word.endswith(".py"):
            found = load_file(Path(word))
        elif word.partition(":")[0] in known:
            found = [variant(word, known)]
        else:
            hint = nearest(word.partition(":")[0], [*known, *groups])
            raise UsageError(f"--method {word!r} is not known; {hint}; or give a .py file")
        for entry in found:
            if entry.name in groups:
                raise UsageError(f"--method {entry.file}: {entry.name!r} is a group of methods; rename the method")
            twin = chosen.get(entry.name) or known.get(entry.name)
            if twin is not None and twin.file.resolve() != entry.file:
                raise UsageError(
                    f"--method {entry.file}: the name {entry.name!r} is taken by {twin.file}; rename the class's `name`"
                )
            chosen[entry.name] = entry
    controls = {entry.name: entry for entry in known.values() if entry.control}
    return [
        *(entry for entry in chosen.values() if not entry.control),
        *{**controls, **{n: e for n, e in chosen.items() if e.control}}.values(),
    ]


def grouped(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Methods by the groups that include them. Raises UsageError for a group that is called as a method."""
    found: dict[str, list[Entry]] = {ALL: [], EVERY: []}
    names = {entry.name: entry for entry in entries}
    for entry in names.values():
        for group in entry.groups:
            if group in names:
                raise UsageError(f"{entry.file}: groups: {group!r} is the method of {names[group].file}; rename one")
            found.setdefault(group, []).append(entry)
    return found


def rows(settings: Settings | None, known: Mapping[str, Entry]) -> Iterator[Entry]:
    """The rows that a preset makes of methods: its tables with a `base`. Raises UsageError."""
    for name, table in (settings.methods if settings else {}).items():
        if BASE in table:
            where = at(settings.source if settings else "", f"methods.{name}.{BASE}")
            if name in known:
                raise UsageError(f"{where}: {name!r} is a method itself; give the row another name")
            home = known.get(table[BASE]) if isinstance(table[BASE], str) else None
            if home is None or home.control:
                raise UsageError(f"{where}: {table[BASE]!r} is not a method; {nearest(str(table[BASE]), known)}")
            yield dataclasses.replace(home, name=name, base=home.name, tables=(name,))


def variant(word: str, known: Mapping[str, Entry]) -> Entry:
    """The row that `lora:rank=8` names. Raises UsageError."""
    name, *changes = word.split(":")
    home = known[name]
    if home.control:
        raise UsageError(f"--method {word}: {name!r} is a control and has no settings to vary")
    options: dict[str, Any] = {}
    for change in changes:
        key, equals, _ = change.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--method {word}: {change!r}: expected KEY=VALUE, for example --method {name}:rank=8")
        if key.strip() in options:
            raise UsageError(f"--method {word}: {key.strip()!r} stands there twice")
        options.update([parse_change(change)])
    return dataclasses.replace(home, name=word, base=home.method, options=options)


@dataclasses.dataclass(frozen=True)
class Source:
    """Settings of one method, and who gave them."""

    where: str
    """A file, or an option of the command line."""
    prefix: str
    """What stands before their keys there."""
    values: Mapping[str, Any]

    def place(self, key: str) -> str:
        """Where `key` stands, for an error."""
        if self.where == "--set":
            return f"--set {self.prefix}{key}"
        return at(self.where, self.prefix + key) if self.prefix else f"{self.where}: {key}"


def sources(entry: Entry, settings: Settings) -> Iterator[Source]:
    """Where a row's settings come from; the later win."""

    def typed(prefix: str) -> Source:
        changes = settings.changes.items()
        values = {key.removeprefix(prefix): value for key, value in changes if key.startswith(prefix)}
        return Source("--set", prefix, values)

    def table(name: str) -> Source:
        values = {key: value for key, value in settings.methods.get(name, {}).items() if key != BASE}
        return Source(settings.source, f"methods.{name}.", values)

    yield Source(str(entry.file), "training.", getattr(entry.kind, "training", {}))
    names = (entry.method, *entry.tables)
    yield from map(table, names)
    yield typed("training.")
    yield from (typed(f"methods.{name}.") for name in names)
    if entry.options:
        yield Source(f"--method {entry.name}", "", entry.options)
        yield typed(f"methods.{entry.name}.")  # as `bakeoff tune` has it


def configure(entry: Entry, settings: Settings) -> tuple[Any, TrainingSettings]:
    """The method with its hyperparameters, and its training recipe.

    Later wins: [training], the method's own `training`, [methods.NAME], [methods.ROW], --set training.*,
    --set methods.NAME.*, what the row's name says, --set methods.ROW.*. Raises UsageError for keys and values that the
    method doesn't have.
    """
    own = {f.name for f in dataclasses.fields(entry.kind)}
    known = own if entry.control else own | set(TRAINING_KEYS)
    hyperparameters: dict[str, Any] = {}
    recipe = settings.training
    method = entry.kind()
    for source in sources(entry, settings):
        if source.prefix != "training.":
            for key in source.values:
                if key not in known:
                    what = f"{key!r} is not a setting of method {entry.method!r}"
                    raise UsageError(f"{source.place(key)}: {what}; {nearest(key, known)}")
        training = {key: value for key, value in source.values.items() if key in TRAINING_KEYS}
        checked = build(TrainingSettings, training, source.where, source.prefix)
        recipe = dataclasses.replace(recipe, **{key: getattr(checked, key) for key in training})
        if found := {key: value for key, value in source.values.items() if key in own}:
            hyperparameters |= found
            method = build(entry.kind, hyperparameters, source.where, source.prefix)
    if recipe.micro_batch_size > recipe.batch_size:
        raise UsageError(
            f"method {entry.name!r}: micro_batch_size = {recipe.micro_batch_size} is above "
            f"batch_size = {recipe.batch_size}; type --set training.micro_batch_size={recipe.batch_size}"
        )
    return method, recipe


def refuse_unread(settings: Settings, entries: Sequence[Entry]) -> None:
    """Raises UsageError for a `--set` that no selected method reads, and for a `[methods.NAME]` that nobody is."""
    selected = {name for entry in entries for name in (entry.name, entry.method, *entry.tables)}
    known = selected | set(known_methods()) | {name for name, table in settings.methods.items() if BASE in table}
    for name in settings.methods:
        if name not in known:
            raise UsageError(
                f"{at(settings.source, 'methods.' + name)}: [methods.{name}] is no method; {nearest(name, known)}; "
                f'a row of its own needs {BASE} = "METHOD"'
            )
    for key in settings.changes:
        head, _, rest = key.partition(".")
        name = rest.rpartition(".")[0]
        if head == "methods" and name not in selected:
            hint = f"add --method {name}" if name in known else nearest(name, known)
            raise UsageError(f"--set {key}: no selected method reads it; {hint}")
        if head == "training" and all(entry.control for entry in entries):
            raise UsageError(f"--set {key}: only controls are selected and they train nothing; add --method lora")
