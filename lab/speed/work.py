"""Whether two arms did the same work; a speed of different work is refused."""

import numpy

EXACT = 1e-4
"""fp32: largest difference between the losses of a step, in nats."""
EPSILON = 1e-5
"""Of Adam where equal work is checked: its first step is else a gradient's sign, and one of 1e-8, which rounding turns,
moves a weight as far as any other. Most are above 1e-4."""
BF16_LOSS = 0.02
"""bf16: largest difference between the losses of a step, as a share of the loss."""
BF16_LOGITS = 0.2
"""bf16: mean difference between the log-probabilities of the tokens that a model finds likely, in nats."""
LIKELY = -7.0
"""Log-probability from which a token counts as likely: about one in a thousand."""


class Unequal(Exception):
    """Two arms that did not do the same work, with what differs."""


def same_curve(what: str, ours: list[float], theirs: list[float], *, bf16: bool) -> float:
    """Largest difference of the losses (in bf16 as a share of the loss). Raises Unequal past the tolerance."""
    if len(ours) != len(theirs) or not ours:
        raise Unequal(f"{what}: {len(ours)} optimizer steps against {len(theirs)}")
    gaps = [abs(a - b) / (abs(b) if bf16 else 1.0) for a, b in zip(ours, theirs, strict=True)]
    limit = BF16_LOSS if bf16 else EXACT
    worst = max(range(len(gaps)), key=lambda step: gaps[step] if gaps[step] == gaps[step] else float("inf"))
    if not gaps[worst] <= limit:
        raise Unequal(f"{what}: losses of step {worst + 1} are {ours[worst]:.6f} and {theirs[worst]:.6f}, "
                      f"further apart than {limit:g}")  # fmt: skip
    return gaps[worst]


def same_logits(what: str, ours: numpy.ndarray, theirs: numpy.ndarray, *, bf16: bool) -> float:
    """Mean difference of likely tokens' log-probabilities, label tokens x vocabulary. Raises Unequal past it."""
    if ours.shape != theirs.shape:
        raise Unequal(f"{what}: logits are {ours.shape} and {theirs.shape}")
    gap = float(numpy.abs(ours - theirs)[theirs > LIKELY].mean())
    limit = BF16_LOGITS if bf16 else EXACT
    if not gap <= limit:
        raise Unequal(f"{what}: teacher-forced log-probabilities differ by {gap:.5f} nats on average, limit {limit:g}")
    return gap


def same_texts(what: str, ours: list[str], theirs: list[str]) -> int:
    """Number of texts, all equal. Raises Unequal with the first that is not."""
    if len(ours) != len(theirs):
        raise Unequal(f"{what}: {len(ours)} texts against {len(theirs)}")
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        if a != b:
            raise Unequal(f"{what}: text {number} is {a[:60]!r} and {b[:60]!r}")
    return len(ours)


def same_number(what: str, ours: int, theirs: int, *, within: float = 0.0) -> float:
    """Difference between two numbers as a share. Raises Unequal past `within`."""
    gap = abs(ours - theirs) / max(1, theirs)
    if gap > within:
        raise Unequal(f"{what}: {ours} against {theirs}")
    return gap
