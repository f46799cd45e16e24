"""What a GPU changes, on a machine without one: torch.cuda is made up where it is asked."""

import contextlib
import dataclasses
import gc
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from computing import fine_tune

from bakeoff import report
from bakeoff.config import hardware, presets, schema
from bakeoff.config.schema import TrainingSettings
from bakeoff.core.errors import UsageError
from bakeoff.data import tasks
from bakeoff.engine import batches, layout
from bakeoff.engine.cpu import native
from bakeoff.engine.cpu.engine import Cpu
from bakeoff.engine.cuda import decoding, graph
from bakeoff.methods.selection import select
from bakeoff.metrics import rouge
from bakeoff.runs import pipeline, training, verify
from bakeoff.runs.resources import Clock, Memory
from bakeoff.session import plan, start
from bakeoff.session.store import Store
from lab.speed import opponents

SMALL = ["task.train=4", "task.validation=2", "task.test=3", "task.max_target_tokens=8", "training.epochs=1"]
H100 = {"gpu": "NVIDIA H100", "gpu_capability": "9.0", "gpu_driver": "570.86.15", "cuda": "12.8", "cudnn": "91002"}

[LORA] = (entry for entry in select(["lora"]) if entry.name == "lora")


@pytest.fixture
def h100(monkeypatch, tmp_path):
    """A machine with one H100, as far as anybody asks."""
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC 12.2.0\n")
    monkeypatch.setattr(hardware, "DRIVER", driver)
    for name, value in {"is_available": True, "is_bf16_supported": True, "get_device_name": "NVIDIA H100",
                        "get_device_capability": (9, 0), "device_count": 1,
                        "get_device_properties": SimpleNamespace(name="H100", total_memory=80)}.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *given, value=value, **more: value)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """The smoke preset on a CPU and what its plan finds, in this process."""
    folder = tmp_path_factory.mktemp("probed")
    chosen = presets.load("smoke", changes=[*SMALL, "machine.device=cpu", "engine.compiled=false"])
    methods = [(entry.name, entry.name, str(entry.file), schema.plain(entry.kind())) for entry in select(["lora"])]
    return chosen, plan.probe(plan.sections(chosen), methods, str(folder / "models"), print)


def spec_of(tmp_path, found, chosen):
    return plan.make(chosen, ["lora"], Store(tmp_path / "store"), found).specs["lora"][0]


# A captured step


@pytest.fixture
def capturing(monkeypatch):
    """torch.cuda with streams and a capture, as far as graph.py asks; gives what is current and what torch refuses."""
    state = {"stream": "main", "refused": "default"}

    class Stream(str):
        def wait_stream(self, other):
            pass

    @contextlib.contextmanager
    def on(stream):
        before, state["stream"] = state["stream"], str(stream)
        try:
            yield
        finally:
            state["stream"] = before

    @contextlib.contextmanager
    def capture(graph, stream):
        before, state["stream"] = state["stream"], f"capture on {stream}"
        yield  # an error leaves the stream as it is, as torch's does
        state["stream"] = before

    for name, value in {
        "Stream": lambda: Stream("side"), "current_stream": lambda: Stream(state["stream"]), "stream": on,
        "graph": capture, "CUDAGraph": lambda: "graph",
        "set_stream": lambda stream: state.update(stream=str(stream)),
        "set_sync_debug_mode": lambda mode: state.update(refused=mode),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    graph.side.cache_clear()
    yield state
    graph.side.cache_clear()


def test_a_step_is_asked_for_waits_before_it_is_captured_on_one_stream_for_all(capturing):
    for _ in range(2):
        calls = []
        assert graph.captured(lambda: calls.append(dict(capturing)), lambda: calls.append("undone")) == "graph"  # noqa: B023
        *warm, captured, undone = calls
        assert [call["refused"] for call in warm] == ["default"] * (graph.WARM - 1) + ["error"]
        assert captured == {"stream": "capture on side", "refused": "default"} and undone == "undone"
    assert capturing == {"stream": "main", "refused": "default"}


@pytest.mark.parametrize("call", [graph.WARM, graph.WARM + 1])
def test_a_step_that_can_not_be_captured_leaves_streams_and_checks_as_they_were(capturing, call):
    calls = []

    def compute():
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        graph.captured(compute, lambda: pytest.fail("there is nothing to undo"))
    assert capturing == {"stream": "main", "refused": "default"}


def test_rows_that_were_written_in_are_freed_at_once(tiny):
    """A cache that waits for Python's collector stands on the card beside the one that follows."""
    rows = decoding.Rows(tiny()[0].eval(), 2, 256, None, "cpu")
    decoding.write(rows, [[1, 2], [3]], 4, (), torch.float32, captured=True)
    seen = weakref.ref(rows)
    gc.disable()
    try:
        del rows
        assert seen() is None
    finally:
        gc.enable()


# The card, in fingerprint and report


def test_a_plan_finds_the_card_and_starts_no_compiler_beside_it(h100, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "build", lambda folder: pytest.fail("the C compiler was started"))
    chosen = presets.load("smoke", changes=SMALL)
    found = plan.probe(plan.sections(chosen), [], str(tmp_path / "models"), print)
    assert found["machine"]["device"] == "cuda" and found["card"] == H100


def test_a_gpu_takes_its_own_engine_with_rows_by_tokens(h100):
    found = hardware.resolve(schema.MachineSettings(threads=1), schema.EngineSettings())
    assert (found.engine, found.precision, found.packing, found.captured) == ("cuda", "bf16", True, True)
    assert found.micro_batch_tokens == 16_384 and found.fused and not (found.compiled or found.shared_prefix)
    again = hardware.resolve(schema.MachineSettings(checkpoint_activations=True), schema.EngineSettings())
    assert not again.fused
    assert hardware.resolve(schema.MachineSettings(engine="plain"), schema.EngineSettings()).micro_batch_tokens == 0


@pytest.mark.parametrize(("device", "engine"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_an_engine_of_another_device_is_refused_in_one_line(h100, device, engine):
    with pytest.raises(UsageError, match=f"^machine.engine = '{engine}': the run is on {device}; type --set mach"):
        hardware.resolve(schema.MachineSettings(device=device, engine=engine), schema.EngineSettings())


def test_moments_in_eight_bits_are_refused_before_a_run_on_a_processor(tmp_path, probed):
    chosen, found = probed
    asked = dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, optimizer="adamw8bit"))
    with pytest.raises(UsageError, match=r"^method 'lora', optimizer = 'adamw8bit': needs a GPU, and .*=adamw$"):
        spec_of(tmp_path, found, asked)


def test_another_card_driver_or_cuda_is_another_run(tmp_path, probed):
    chosen, found = probed
    cards = [H100, *({**H100, key: "other"} for key in H100)]
    runs = [spec_of(tmp_path, {**found, "card": card}, chosen) for card in cards]
    assert len({one.fingerprint for one in runs}) == len(cards)
    assert all(card.items() <= one.versions.items() for card, one in zip(cards, runs, strict=True))


def test_a_run_on_a_cpu_knows_of_no_card(tmp_path, probed):
    chosen, found = probed
    assert spec_of(tmp_path, found, chosen).versions == {**hardware.versions(), "compiler": "not asked for"}


def test_a_card_without_nvidias_driver_file_has_an_unknown_driver(h100, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "DRIVER", tmp_path / "missing")
    assert hardware.card("cuda") == {**H100, "gpu_driver": "unknown"}


def test_the_report_names_the_card(tmp_path, probed):
    chosen, found = probed
    spec = spec_of(tmp_path, {**found, "card": H100}, chosen)
    task = tasks.load(chosen.task, rouge.Scorer(chosen.scoring))
    result, _ = pipeline.finish(spec, task, ["a summary"] * len(task.examples.test), Clock())
    assert H100.items() <= result.environment.items()
    assert set(result.environment) == {
        *hardware.environment(),
        *H100,
        "compiler",
        "model_note",
        "documents",
        "engine_reason",
    }


# Where a GPU is expected


@pytest.fixture
def torch_build(monkeypatch, tmp_path):
    """A function that makes torch one built as its version.py says, beside a card or none."""

    def build(version, card=True):
        (tmp_path / "version.py").write_text(version)
        (tmp_path / "card").write_text("")
        monkeypatch.setattr(hardware, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
        monkeypatch.setattr(hardware, "CARDS", (tmp_path / "none", *([tmp_path / "card"] if card else [])))

    return build


CUDA, CPU = "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "cuda: Optional[str] = None\nhip = None\n"
ROCM = "cuda: Optional[str] = None\nhip: Optional[str] = '6.3'\n"


@pytest.mark.parametrize(("version", "card", "expected"), [
    (CUDA, True, True), (ROCM, True, True), (CUDA, False, False), (CPU, True, False), ("", True, False),
])  # fmt: skip
def test_a_gpu_is_expected_where_torch_and_system_have_one(torch_build, monkeypatch, version, card, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    torch_build(version, card)
    assert hardware.expects_card("auto") is expected
    assert hardware.expects_card("cuda") and not hardware.expects_card("cpu")


@pytest.mark.parametrize(("visible", "expected"), [
    ("0", True), ("3,1", True), ("GPU-8932f937", True), ("MIG-1c", True), ("", False), ("-1", False),
    ("NoDevFiles", False), ("-1,0", False),
])  # fmt: skip
def test_a_gpu_that_is_hidden_is_not_expected(torch_build, monkeypatch, visible, expected):
    torch_build(CUDA)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.expects_card("auto") is expected


def test_the_build_of_torch_is_read_from_its_own_version_file():
    found = hardware.find_spec("torch")
    assert "cuda" in Path(found.origin).with_name("version.py").read_text()


def test_no_compiler_works_ahead_where_a_gpu_is_expected(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "expects_card", lambda device: device == "auto")
    monkeypatch.setattr(start.engine, "compile_ahead", lambda folder: pytest.fail("the C compiler was started"))
    monkeypatch.setattr(report, "prepare", lambda *page: None)
    start.ahead(presets.load("smoke"), Store(tmp_path / "store"), True)


# Repeated to the bit


@pytest.fixture
def warning_only():
    """Algorithms as seed_everything asks for them on a GPU."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def strict():
    return torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()


def trained(tiny, encoded, fp32, micro=4, **changes):
    model, tokenizer = tiny()
    model = LORA.kind().attach(model, tokenizer)
    recipe = TrainingSettings(**{"batch_size": 4, "micro_batch_size": micro, "epochs": 1, **changes})
    return fine_tune(model, encoded, encoded[:4], recipe, fp32, seed=0, pad=256, clock=Clock())


def test_only_the_backward_pass_is_strict_on_a_gpu(tiny, encoded, fp32, monkeypatch, warning_only):
    monkeypatch.setattr(training, "repeatable", lambda device: hardware.repeatable("cuda"))
    seen, plain = {"forward": [], "backward": []}, Cpu.loss

    def watched(*given):
        seen["forward"].append(strict())
        loss = plain(*given)
        if loss.requires_grad:
            loss.register_hook(lambda gradient: seen["backward"].append(strict()))
        return loss

    monkeypatch.setattr(Cpu, "loss", watched)
    trained(tiny, encoded, fp32)
    assert seen["backward"] == [True, True] and not any(seen["forward"])
    assert not strict() and torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_cannot_repeat_is_named_in_one_line(warning_only):
    text = "kthvalue CUDA does not have a deterministic implementation, but you set\n'torch.use_deterministic'"
    line = r"^kthvalue CUDA can't be .*; type --set machine.device=cpu$"
    with pytest.raises(UsageError, match=line), hardware.repeatable("cuda"):
        raise RuntimeError(text)
    assert not strict()
    with pytest.raises(RuntimeError, match="shapes"), hardware.repeatable("cuda"):
        raise RuntimeError("shapes cannot be multiplied")


# Nothing waits for a GPU


def test_a_step_reads_as_many_numbers_whatever_its_micro_batches(tiny, encoded, fp32, monkeypatch):
    reads = []
    padded = dataclasses.replace(fp32, packing=False, fused=False, compiled=False, shared_prefix=False)
    monkeypatch.setattr(layout, "padded", lambda model: "")  # else asked once, where lengths differ
    for name in ("item", "tolist", "__float__", "__int__"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, plain=plain: reads.append(plain) or plain(self))
    counts = []
    for micro in (4, 1):
        reads.clear()
        trained(tiny, encoded, padded, micro)
        counts.append(len(reads))
    assert counts[0] == counts[1] > 0


def test_losses_are_the_sums_in_double_precision_of_those_of_the_parts(tiny, encoded, fp32, monkeypatch):
    parts, plain = [], Cpu.loss
    monkeypatch.setattr(Cpu, "loss", lambda *given: parts.append(plain(*given)) or parts[-1])
    curves = trained(tiny, encoded, fp32, micro=1)
    before, first, second, after = (parts[start : start + 4] for start in range(0, 16, 4))
    labels = [len(example.ids) - example.prompt for example in encoded]
    for step, some in zip(curves.steps, (first, second), strict=True):
        held = [number for number in range(8) if (number in places(0)[:4]) == (some is first)]
        assert step["loss"] == sum((part / sum(labels[n] for n in held)).item() for part in some)
    for row, some in zip(curves.epochs, (before, after), strict=True):
        assert row["validation_loss"] == sum(part.item() for part in some) / sum(labels[:4])


def places(seed):
    return torch.randperm(8, generator=torch.Generator().manual_seed(seed)).tolist()


def test_what_goes_to_a_gpu_is_pinned_and_not_waited_for():
    class Tensor:
        told = ()
        device = torch.device("cpu")

        def pin_memory(self):
            self.told += ("pinned",)
            return self

        def to(self, device, **how):
            return (*self.told, device, how)

    assert batches.to_device(Tensor(), "cuda") == ("pinned", "cuda", {"non_blocking": True})
    assert batches.to_device(Tensor(), "cpu") == ("cpu", {})
    there = Tensor()
    there.device = torch.device("cuda")
    assert batches.to_device(there, "cuda") == ("cuda", {})  # what is there can't be pinned


# Memory


def test_memory_is_counted_from_the_placed_model_on(tmp_path, probed, monkeypatch):
    chosen, found = probed
    order, prepare = [], Cpu.prepare
    monkeypatch.setattr(Cpu, "prepare", lambda *given: (prepare(*given), order.append("settled"))[0])
    monkeypatch.setattr(Memory, "placed", lambda self: order.append("placed"))

    def stop(*given, **more):
        raise InterruptedError

    monkeypatch.setattr(pipeline, "fine_tune", stop)
    spec = spec_of(tmp_path, found, chosen)
    with pytest.raises(InterruptedError):
        pipeline.run(spec, tmp_path / "run", tmp_path / "models", print, Clock())
    assert order == ["settled", "placed"]


def test_a_large_model_is_gone_when_it_is_loaded_again(tmp_path, probed, monkeypatch):
    chosen, found = probed
    left, load, prepare = [], pipeline.Base.load, Cpu.prepare

    def loading(base):
        if left:
            left.append(sum(parameter() is not None for parameter in left.pop()))
        return load(base)

    def settled(engine, *given):
        model = prepare(engine, *given)
        if not left:
            left.append([weakref.ref(parameter) for parameter in model.parameters()])
        return model

    monkeypatch.setattr(verify, "SMALL", 0)
    monkeypatch.setattr(pipeline.Base, "load", loading)
    monkeypatch.setattr(Cpu, "prepare", settled)
    gc.disable()  # what refers to itself would go sooner or later
    try:
        pipeline.run(
            spec_of(tmp_path, found, chosen), tmp_path / "run", tmp_path / "models", lambda news: None, Clock()
        )
    finally:
        gc.enable()
    assert left == [0]


# The opponents of lab/speed/measure.py


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_trainer_computes_where_the_bench_does(tiny, encoded, fp32, monkeypatch, tmp_path, device):
    class Asked(Exception):
        pass

    def arguments(**given):
        raise Asked(given["use_cpu"], given["dataloader_pin_memory"])

    monkeypatch.setattr(opponents, "TrainingArguments", arguments)
    bench = SimpleNamespace(model=tiny()[0], train=encoded, seed=0, where=dataclasses.replace(fp32, device=device),
                            recipe=TrainingSettings(epochs=1, batch_size=4, micro_batch_size=4))  # fmt: skip
    with pytest.raises(Asked) as asked:
        opponents.train(bench, bf16=False, grouped=False, folder=str(tmp_path))
    assert asked.value.args == (device == "cpu", device == "cuda")
