"""A tiny Llama built in memory, a byte tokenizer, and examples; nothing is read from disk.

`pytest --help` loads this file, so fixtures import for themselves what takes seconds.
"""

import contextlib
import json
import os
import shutil

import pytest

from bakeoff.config import project
from bakeoff.config.hardware import available_threads
from bakeoff.config.schema import Computation, ModelSettings, TaskSettings
from bakeoff.shipped import ROOT

# A command that a test starts is no worker of the tests, though these may run in several processes.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    del os.environ[name]

ARCHITECTURE = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 257, "tie_word_embeddings": True,
}  # fmt: skip

NO_CHARTS = "// No library: no browser opens this page."


@pytest.fixture
def tiny():
    """A function that builds a tiny model anew: `model, tokenizer = tiny()`; keywords change its architecture."""

    from bakeoff.models import loading

    def build(special_tokens=(), **changes):
        settings = ModelSettings(name="random", architecture={**ARCHITECTURE, **changes}, special_tokens=special_tokens)
        return loading.load(settings, loading.locate(settings), None, "eager")

    return build


@pytest.fixture
def fp32():
    """A CPU in single precision."""
    return Computation(device="cpu", precision="fp32", attention="eager", threads=1, engine="cpu")


@pytest.fixture(scope="session")
def libraries(tmp_path_factory, pytestconfig):
    """A folder for what native.py compiles, which all processes of the tests share."""
    ours = tmp_path_factory.getbasetemp()
    folder = (ours.parent if hasattr(pytestconfig, "workerinput") else ours) / "native"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def furnished(libraries):
    """A function that puts into a store what takes seconds for each: kernels, compiled once for all tests, a library of
    charts that draws none, and which attention is quicker, so that it is the same in two stores on a busy machine."""
    import filelock

    from bakeoff.engine import timing
    from bakeoff.engine.cpu import native
    from bakeoff.engine.cpu.compiler import NoCompiler
    from bakeoff.report.page import library
    from bakeoff.session import plan

    choices = {
        timing.named(Computation(precision=precision, threads=threads, compiled=compiled)): {"attention": "eager"}
        for precision in ("fp32", "bf16")
        for threads in range(1, available_threads() + 1)
        for compiled in (False, True)
    }

    def furnish(store):
        store.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(NoCompiler), filelock.FileLock(libraries.with_suffix(".lock")):
            native.build(libraries)
            shutil.copytree(libraries, store / "native", dirs_exist_ok=True)
        native.close()
        (store / plan.MACHINE).write_text(json.dumps(choices))
        library.keep(store / "page" / library.kept(), NO_CHARTS)
        return store

    return furnish


@pytest.fixture
def compiled(libraries):
    """A function that compiles the kernels, for this test alone; skips it where there is no compiler."""

    from bakeoff.engine.cpu import native
    from bakeoff.engine.cpu.compiler import NoCompiler

    def build():
        try:
            native.build(libraries)
        except NoCompiler as missing:
            pytest.skip(f"the kernels can't be compiled: {missing}")

    yield build
    native.close()


@pytest.fixture
def task():
    """Twelve documents of different lengths."""
    from bakeoff.data.tasks import Example, Examples, Task

    texts = [("lorem ipsum " * (2 + number)).strip() for number in range(12)]
    made = [Example(f"doc-{n}", f"{n} {text}.", f"Gist {'very ' * (n % 4)}{n}.") for n, text in enumerate(texts)]
    examples = Examples(tuple(made[:8]), tuple(made[8:10]), tuple(made[10:]))
    return Task("tiny", "{document}\n\nSummary:", "Summarize.\n\n{document}", examples, "0" * 64)


@pytest.fixture
def encoded(tiny, task):
    """The training examples, encoded for the tiny model."""
    from bakeoff.data.encoding import Encoder

    _, tokenizer = tiny()
    encoder = Encoder(tokenizer, task, TaskSettings(max_input_tokens=96, max_target_tokens=24))
    return [encoder.example(example) for example in task.examples.train]


@pytest.fixture(autouse=True, scope="session")
def no_charts():
    """A page that no browser opens needs no library, which takes seconds to put together."""
    from bakeoff.report.page import write

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "vega", lambda folder=None: NO_CHARTS)  # not `bundle`, which would be kept in real stores
        yield


@pytest.fixture(autouse=True)
def checkout_is_the_project(monkeypatch):
    """Wherever an earlier test typed a command."""
    monkeypatch.setattr(project, "_root", ROOT)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """A tiny model computes in microseconds; more threads would only wait for each other."""
    import torch

    torch.set_num_threads(1)


LONG = ("session", "engine/cuda", "whole", "gate", "runs", "methods")
"""Folders whose slow tests take longest: begun first, so that at the end no process works alone."""


def pytest_collection_modifyitems(items):
    """Puts the tests of LONG first, each folder's in their order."""
    folders = [ROOT / "tests" / name for name in LONG]
    items.sort(key=lambda item: [folder not in item.path.parents for folder in folders])
