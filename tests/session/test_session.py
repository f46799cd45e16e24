"""Whole runs in processes of their own, on a tiny model: repeated to the bit, reused, and dead beside the living."""

import dataclasses
import io
import json
import threading

import jobs
import pytest
from baking import SMALL, adapter
from factories import DOOMED

from bakeoff import report
from bakeoff.config import hardware, presets, schema
from bakeoff.core.errors import UsageError
from bakeoff.engine import timing
from bakeoff.engine.cpu import compiler, native
from bakeoff.models import loading
from bakeoff.session import plan, start, worker
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store


def bake(store, methods=("lora",), seeds="42", changes=(), fresh=False):
    """A session on the smoke preset with fewer papers, and what it printed."""
    worker.start_server(offline=True)
    chosen = presets.load("smoke", seeds=seeds, changes=[*SMALL, *changes])
    printed = io.StringIO()
    return Session(plan.make(chosen, methods, store), store, Progress(printed, live=False), fresh=fresh), printed


@pytest.fixture(scope="module")
def store(tmp_path_factory, furnished):
    """A store that the tests of this file share, so that each run is made once."""
    return Store(furnished(tmp_path_factory.mktemp("session") / "store"))


@pytest.mark.parametrize("method", ["lora", "last-layer"])
def test_the_same_seed_repeats_losses_adapter_summaries_and_scores_to_the_bit(store, tmp_path, furnished, method):
    other = Store(furnished(tmp_path / "other"))
    (first,), (second,) = (bake(place, [method])[0].runs(method) for place in (store, other))
    assert first.fingerprint == second.fingerprint
    assert first.steps == second.steps and first.steps
    assert first.epochs == second.epochs
    assert first.scores == second.scores
    assert store.predictions(first.fingerprint) == other.predictions(second.fingerprint)
    assert adapter(store, first) == adapter(other, second)


def test_a_stored_run_that_is_damaged_is_made_again_and_said_to_be(store):
    [run] = bake(store)[0].runs("lora")
    file = store.folder(run.fingerprint) / "result.json"
    file.write_bytes(file.read_bytes()[:-2])
    session, printed = bake(store)
    [again] = session.runs("lora")
    assert printed.getvalue().count(f"{run.fingerprint} holds is damaged; it is made again") == 1
    assert again.scores == run.scores and store.find(run.fingerprint) == again
    fresh, printed = bake(store, fresh=True)
    assert fresh.runs("lora") and "damaged" not in printed.getvalue()


def test_another_seed_starts_elsewhere_and_sees_another_order_of_the_same_papers(store):
    first, second = bake(store, ["lora"], seeds="42,43")[0].runs("lora")
    assert first.document_ids == second.document_ids
    assert [step["loss"] for step in first.steps] != [step["loss"] for step in second.steps]
    assert adapter(store, first) != adapter(store, second)


def test_a_method_without_random_weights_still_sees_another_order(store):
    # Two papers a step: an effective batch of all four holds the same papers in any order.
    first, second = bake(store, ["full"], seeds="42,43", changes=["training.batch_size=2"])[0].runs("full")
    assert first.epochs[0]["validation_loss"] == second.epochs[0]["validation_loss"]
    assert [step["loss"] for step in first.steps] != [step["loss"] for step in second.steps]


def test_a_finished_run_is_reused_and_says_so_and_fresh_makes_it_again(store):
    made = bake(store)[0].runs("lora")[0]
    session, printed = bake(store)
    assert session.runs("lora")[0] == made
    assert "not trained again" in printed.getvalue() and "0 made, 1 reused" in session.summary()
    assert session.interrupted().endswith("type the same command to go on")
    again, _ = bake(store, fresh=True)
    assert again.interrupted().endswith("type the same command without --fresh to go on")
    assert again.runs("lora")[0].finished >= made.finished and "1 made, 0 reused" in again.summary()


@pytest.fixture
def own(tmp_path):
    """A model's folder, documents and other text, as changes of the preset."""
    settings = schema.ModelSettings(name="random", architecture=dict(presets.load("smoke").model.architecture))
    for part in loading.load(settings, loading.locate(settings), None, "eager"):
        part.save_pretrained(tmp_path / "model")
    rows = [{"document": f"We tried {n}. It gave {n} more.", "summary": f"It gave {n} more."} for n in range(12)]
    (tmp_path / "papers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "other.txt").write_text("Nothing of the task.\n")
    return ["model.name=" + str(tmp_path / "model"), "model.architecture={}", f"task.name={tmp_path / 'papers.jsonl'}",
            f"measure.text={tmp_path / 'other.txt'}", "measure.forgetting=1", "task.split_column="]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "said"), [
    ("papers.jsonl", "We tried 3.", "We tried it.", "--task "),
    ("other.txt", "Nothing", "All", "measure.text: "),
    ("model/config.json", '"rope_', '"note": 1, "rope_', "--model "),
])  # fmt: skip
def test_what_was_changed_after_the_plan_or_differs_on_a_node_is_refused(
    furnished, tmp_path, own, file, old, new, said
):
    session, _ = bake(Store(furnished(tmp_path / "store")), ["lora"], changes=own)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(worker.Died, match="not what stood there when the bake-off was planned") as died:
        session.runs("lora")
    assert died.value.cause.startswith(said)


def test_a_run_leaves_its_evidence(store):
    run = bake(store)[0].runs("lora")[0]
    counts = run.parameters
    assert counts["expected"] == counts["requires_grad"]
    assert counts["optimizer"] == counts["saved"] == counts["expected"]["trainable"]
    assert run.evidence["frozen_changed"] == [] and run.evidence["frozen_before"] == run.evidence["frozen_after"]
    assert [row["again"] for row in run.evidence["reloaded"]] == [row["summary"] for row in run.evidence["reloaded"]]
    assert run.truncated["documents"] > 0, "the smoke limits are short, so papers are cut and counted"
    assert run.tokens["training"] > run.tokens["labels"] > 0
    assert {"setup", "training", "validation", "evaluation", "checks"} <= set(run.seconds)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checked_summaries_are_those_that_were_scored_but_for_bf16(store, tmp_path, precision):
    """In bf16 a text may depend on how many are written together, so the trained model may write them once more."""
    spec = dataclasses.asdict(bake(store, changes=[f"machine.precision={precision}"])[0].plan.specs["lora"][0])

    def check(small, forgetful=False):
        folder = tmp_path / f"{small}-{forgetful}"
        log = tmp_path / "log"
        return worker.call(jobs.checked, spec, folder, store.models, small, forgetful, log=log)

    (large, thrice), (small, asked) = check(0), check(2**30)
    if precision == "fp32":
        assert thrice == asked == [3, 3]
    else:
        assert thrice == [3, 3, 3] and asked in ([3, 3], [3, 3, 3])
    for evidence in (large, small):
        assert [row["again"] for row in evidence["reloaded"]] == [row["summary"] for row in evidence["reloaded"]]
        assert evidence["trained"] == evidence["reloaded_trained"]
    lost, _ = check(2**30, forgetful=True)
    assert lost["trained"] == small["trained"] != lost["reloaded_trained"]


def test_special_tokens_grow_the_embeddings_and_are_not_saved_with_an_adapter(store):
    plain = bake(store)[0].runs("lora")[0]
    grown = bake(store, changes=["model.special_tokens=['<|sep|>','<|pad|>']", "model.pad_token='<|pad|>'"])[0]
    grown = grown.runs("lora")[0]
    assert grown.parameters["expected"]["total"] - plain.parameters["expected"]["total"] == 2 * 32
    assert grown.parameters["saved"] == plain.parameters["saved"]


def test_a_run_that_dies_is_named_with_phase_and_cause_and_the_others_go_on(store, tmp_path):
    file = tmp_path / "doomed.py"
    file.write_text(DOOMED)
    session, printed = bake(store, [str(file), "lora"])
    for _ in range(2):
        with pytest.raises(worker.Died, match=r"exit code 7.*during"):
            session.runs("doomed")
    assert printed.getvalue().count("dead: ") == 1
    session.runs("lora")
    session.runs("lead-1")
    session.report(tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    assert "doomed (dead)" in page and "exit code 7" in page and "lora" in page


def test_a_loss_that_is_not_finite_ends_its_own_run_with_step_and_method(store):
    session, printed = bake(store, changes=["methods.lora.alpha=1e38", "methods.lora.learning_rate=1000.0"])
    with pytest.raises(worker.Died, match=r"(loss|norm) is .* at step \d+ of"):
        session.runs("lora")
    assert "lora (seed 42): dead: " in printed.getvalue()


def fingerprints(store, **options):
    return {name: [spec.fingerprint for spec in specs] for name, specs in bake(store, **options)[0].plan.specs.items()}


def test_a_set_changes_the_fingerprints_of_those_that_read_it_alone(store):
    before, after = (fingerprints(store, methods=["lora,full"], changes=c) for c in ([], ["methods.lora.rank=4"]))
    assert before["lora"] != after["lora"]
    assert {name: f for name, f in before.items() if name != "lora"} == {n: f for n, f in after.items() if n != "lora"}


def test_controls_run_once_whatever_the_number_of_seeds(store):
    specs = bake(store, seeds="1,2,3")[0].plan.specs
    assert {name: len(found) for name, found in specs.items()} == {
        "lora": 3, "zero-shot": 1, "lead-1": 1, "lead-3": 1, "position": 1, "shuffled": 1, "oracle": 1,
    }  # fmt: skip


def test_every_part_of_a_spec_but_its_place_on_disk_is_in_the_fingerprint(store):
    [spec] = bake(store)[0].plan.specs["lora"]
    assert dataclasses.replace(spec, method_file="elsewhere.py").fingerprint == spec.fingerprint
    for field in dataclasses.fields(spec):
        if field.name != "method_file":
            assert dataclasses.replace(spec, **{field.name: "another"}).fingerprint != spec.fingerprint, field.name


def test_a_method_that_can_not_attach_is_refused_before_anything_runs(store):
    with pytest.raises(UsageError, match="method 'lora' can't attach to random"):
        bake(store, changes=["methods.lora.targets=['no_such_layer']"])


def test_the_compiler_works_while_a_model_is_prepared(tmp_path, monkeypatch):
    both, prepare = threading.Barrier(2, timeout=20), loading.prepare
    monkeypatch.setattr(native, "build", lambda folder: f"gcc {both.wait() * 0}")
    monkeypatch.setattr(loading, "prepare", lambda *place: (both.wait(), prepare(*place))[1])
    chosen = presets.load("smoke", changes=["machine.device=cpu", "engine.attention=eager"])
    assert plan.probe(plan.sections(chosen), [], str(tmp_path / "models"), print)["compiler"] == "gcc 0"


@pytest.mark.parametrize(
    ("changes", "new", "compiles"),
    [([], True, True), ([], False, False), (["machine.device=cpu"], True, True),
     (["engine.compiled=false"], True, False),
     (["engine.fused=false"], True, False), (["engine.packing=false"], True, False),
     (["machine.device=cuda"], True, False)],
)  # fmt: skip
def test_the_compiler_works_ahead_of_a_new_plan_that_may_want_it(store, monkeypatch, changes, new, compiles):
    asked = []
    monkeypatch.setattr(hardware, "CARDS", ())

    def missing(folder):
        asked.append(folder)
        raise compiler.NoCompiler("no gcc")

    monkeypatch.setattr(compiler, "compile_all", missing)
    monkeypatch.setattr(report, "prepare", lambda page: asked.append("report"))
    start.ahead(presets.load("smoke", changes=changes), store, new)
    assert asked == [*([store.root / "native"] if compiles else []), "report"]


def test_nothing_is_timed_while_the_compiler_works(store, tmp_path, monkeypatch):
    place, order, begun = Store(tmp_path / "store"), [], threading.Event()

    def report_needs(page):
        begun.wait(0.5)
        order.append("imported")

    def quicker(where):
        begun.set()
        order.append("timed")
        return "eager", {}

    monkeypatch.setattr(compiler, "compile_all", lambda folder: order.append("compiled"))
    monkeypatch.setattr(report, "prepare", report_needs)
    monkeypatch.setattr(timing, "quicker", quicker)
    beside = threading.Thread(
        target=start.ahead, args=(presets.load("smoke", changes=["machine.device=cpu"]), place, True)
    )
    beside.start()
    while not order:
        pass
    where = schema.Computation(precision="bf16", threads=1)
    assert timing.remembered(place.root / plan.MACHINE, where) == "eager"
    beside.join()
    assert order == ["compiled", "imported", "timed"]
