"""One sentence about a metric: which method has the best mean, and what the tests tell from it."""

from collections.abc import Callable, Mapping, Sequence

from bakeoff.report.comparison import points
from bakeoff.report.figures import listing

Quote = Callable[[str], str]
"""Makes untrusted text inert for where the sentence goes."""


def headline(
    means: Mapping[str, float], alike: Sequence[Sequence[str]] | None, label: str, quote: Quote,
    show: Callable[[float], str] = points, falls: bool = False, untested: str = "they were not tested",
) -> str:  # fmt: skip
    """One sentence: the best mean by name, printed by `show`, and what the tests tell from it.

    `alike` holds the groups that can't be told apart, that of the best mean first; None where nothing was tested.
    `falls` says that the lowest value is the best, `untested` why there are no groups.
    """
    if not means:
        return "No trained method finished, so no scores are compared."
    ranked = sorted(means, key=lambda name: means[name] if falls else -means[name])
    best, value = ranked[0], show(means[ranked[0]])
    if len(means) == 1:
        return f"{quote(best)} is the only trained method that finished; its mean {label} is {value}."
    top = [name for name in ranked if show(means[name]) == value]
    rest = ranked[len(top) :]
    extreme = "lowest" if falls else "highest"
    first = f"{quote(best)} has the {extreme} mean {label}, {value}"
    if len(top) > 1:
        first = f"{few(top, quote)} have the {extreme if rest else 'same'} mean {label}, {value}"
    if alike is None:
        return f"{first}, of {len(means)} methods; none is called better, because {untested}."
    together = {name for group in alike if best in group for name in group}
    near, far = [name for name in rest if name in together], [name for name in rest if name not in together]
    it = "it" if len(top) == 1 else quote(best)
    beyond = f"{it} is {'below' if falls else 'above'} {few(far, quote)}"
    if not far:
        return f"{first}, of {len(means)} methods; no other method can be told from {it}."
    if not near and len(top) == 1:
        return f"{first}, and is {'below' if falls else 'above'} every other method."
    return f"{first}; {few(near, quote)} cannot be told from {it}, and {beyond}." if near else f"{first}; {beyond}."


def few(names: Sequence[str], quote: Quote, most: int = 4) -> str:
    """A list of names that ends after `most` of them with the number of the others."""
    shown = [quote(name) for name in names]
    return listing(shown if len(shown) <= most + 1 else [*shown[:most], f"{len(shown) - most} others"])
