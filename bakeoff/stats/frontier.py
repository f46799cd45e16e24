"""Which rows are worth what they cost: the frontier of tests, not of means."""

from collections.abc import Mapping


def frontier(cost: Mapping[str, float], means: Mapping[str, float], higher: Mapping[frozenset[str], str]) -> list[str]:
    """Names from the cheapest on, each of them found above the one before by a corrected test.

    `cost` and `means` hold a figure by name; `higher` holds by two names the one that the test finds higher, and no
    entry, or an empty one, where it tells nothing apart. A dearer row that can't be told from a cheaper one is not
    worth its cost, whatever the means.
    """
    steps: list[str] = []
    for name in sorted(cost, key=lambda name: (cost[name], -means[name])):
        if not steps or higher.get(frozenset((name, steps[-1]))) == name:
            steps.append(name)
    return steps
