"""Resources: a run's booked time and memory, recorded through pytest-benchmark beside its quality."""

import pytest


class BookedTime:
    """A timer that moves by the seconds that a run booked, so a reused run never records how long it took to fetch."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


booked = BookedTime()


@pytest.mark.parametrize("phase", ["training", "evaluation"])
@pytest.mark.benchmark(timer=booked)
def test_seconds_and_bytes_are_recorded(runs, benchmark, record_property, phase):
    if not runs[0].epochs[1:] and phase == "training":
        pytest.skip("0 epochs: nothing was trained")
    left = iter(runs)
    benchmark.group = phase
    benchmark.pedantic(lambda: booked.spend(next(left).seconds[phase]), rounds=len(runs), iterations=1)
    for run in runs:
        assert run.seconds[phase] > 0
    facts = {
        "method": runs[0].spec["method"],
        "seeds": [run.spec["seed"] for run in runs],
        "parameters": runs[0].parameters["requires_grad"],
        "memory_bytes": runs[0].memory_bytes,
        **{metric: [sum(run.scores[metric]) / len(run.scores[metric]) for run in runs] for metric in runs[0].scores},
    }
    benchmark.extra_info.update(facts)
    for name, value in facts.items():
        record_property(name, value)
