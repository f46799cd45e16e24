"""The script for a machine with a GPU: its report, and a rehearsal of all of it on a processor."""

import json

import pytest
import torch

from bakeoff.config import project
from lab.gpu import measure, others, report, shapes

CHECKS = [{"name": "equal to plain, bf16", "holds": True, "says": "yes"},
          {"name": "killed and resumed, bf16", "holds": False, "says": "the weights differ"}]  # fmt: skip
FULL = {"training": 900.0, "writing": 50.0, "training bytes": 2_500_000_000, "writing bytes": None, "reason": ""}


def found(*rows):
    return {"checks": CHECKS, "rows": list(rows), "seconds": 7.0, "environment": {"gpu": "NVIDIA H100", "torch": "2"}}


def test_the_report_names_the_card_and_computes_ratios_and_aims():
    text = report.text(
        found(
            {"shape": "135M", "arm": "Bakeoff", **FULL},
            {"shape": "135M", "arm": report.OPPONENT, **FULL, "training": 200.0, "writing": 10.0},
        )
    )
    assert text.startswith("# Bakeoff on NVIDIA H100\n") and "1 of 2 checks failed." in text
    assert "| 900 " in text and "| 4.50 | 50 " in text and "| 2.50 " in text and "| – " in text
    assert f"135M, training, Bakeoff: 4.50 times {report.OPPONENT} reaches the aim of 4." in text
    assert f"135M, writing, Bakeoff: 5.00 times {report.OPPONENT} misses the aim of 10." in text


def test_the_report_says_from_how_many_steps_on_compiled_layers_pay():
    plain = {"shape": "135M", "arm": "Bakeoff", **FULL, "preparing, s": 2.0, "step, s": 0.050}
    compiled = {**plain, "arm": report.COMPILED, "preparing, s": 32.0, "step, s": 0.035}
    [said] = report.repays([plain, compiled])
    assert said.startswith(
        "135M: to compile the layers takes 30.0 s and saves 15.0 ms a step; it pays from 2,000 steps on"
    )
    [slower] = report.repays([plain, {**compiled, "step, s": 0.051}])
    assert "saves -1.0 ms a step; it does not pay" in slower
    [refused] = report.repays([plain, {**compiled, "uncompiled": "there is no compiler"}])
    assert refused == "135M: layers were not compiled: there is no compiler."
    assert report.repays([{**plain, "failed": "out of memory"}, {"shape": "135M", "arm": report.COMPILED}]) == []


def test_an_arm_that_failed_has_dashes_and_no_ratio():
    rows = [{"shape": "7B", "arm": "Bakeoff", **FULL},
            {"shape": "7B", "arm": report.OPPONENT, "failed": "CUDA out of memory"}]  # fmt: skip
    assert report.ratio(rows[0], rows, "training") is None and report.aims(rows) == []
    assert report.line(rows[1], rows) == ("7B", report.OPPONENT, "CUDA out of memory", *("–",) * 6)


def test_a_machine_without_a_gpu_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure.main([]) == 2
    assert capsys.readouterr().out == (
        "machine.device = 'cuda': torch finds no GPU; type --set machine.device=cpu\n"
    )  # fmt: skip


UNSLOTH = """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


class FastLanguageModel:
    @staticmethod
    def from_pretrained(folder, max_seq_length, dtype, load_in_4bit):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), None

    @staticmethod
    def get_peft_model(model, use_gradient_checkpointing, **options):
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
"""
VLLM = """
from types import SimpleNamespace as SamplingParams

from transformers import AutoModelForCausalLM


class LLM:
    def __init__(self, model, skip_tokenizer_init, max_model_len, seed):
        self.model = AutoModelForCausalLM.from_pretrained(model)

    def generate(self, prompts, asked, use_tqdm):
        assert asked.temperature == 0 and all(len(one["prompt_token_ids"]) <= 48 for one in prompts)
        text = SamplingParams(token_ids=[7] * asked.max_tokens)
        return [SamplingParams(outputs=[text])] * len(prompts)
"""


@pytest.mark.slow
@pytest.mark.parametrize("library, source, what", [("unsloth", UNSLOTH, "training"), ("vllm", VLLM, "writing")])
def test_another_library_computes_in_a_process_of_its_own(tmp_path, monkeypatch, library, source, what):
    """A stand-in with that library's calls: neither can be installed without a GPU."""
    (tmp_path / f"{library}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = others.apart(library, "tiny", "cpu")
    assert found[what] > 0 and set(found) <= {what, f"{what} bytes"}
    (tmp_path / f"{library}.py").write_text("raise ImportError('no driver')")
    with pytest.raises(RuntimeError, match=r"^ImportError: no driver$"):
        others.apart(library, "tiny", "cpu")


def test_libraries_are_compared_where_they_are_installed(monkeypatch):
    monkeypatch.setattr(measure, "find_spec", lambda name: name if name in ("flash_attn", "vllm") else None)
    where = measure.computation("cpu", "bf16")
    names = [name for name, _ in measure.arms("tiny", shapes.REHEARSAL["tiny"], where)]
    ours = ["Bakeoff", report.COMPILED, "Bakeoff, plain engine"]
    assert names == [*ours, report.OPPONENT, f"{report.OPPONENT}, flash", "vLLM"]
    rows = [{"shape": "1B", "arm": "vLLM", "writing": 20.0}, {"shape": "1B", "arm": report.OPPONENT, **FULL}]
    assert report.line(rows[0], rows) == ("1B", "vLLM", "–", "–", "20", "0.40", "–", "–", "–")


@pytest.mark.slow
def test_a_rehearsal_holds_every_check_and_measures_every_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "_root", tmp_path)
    assert measure.main(["--device", "cpu"]) == 0
    made = json.loads((tmp_path / "reports" / "gpu" / "rehearsal.json").read_text())
    assert all(row["holds"] for row in made["checks"])
    kinds = {row["name"].partition(",")[0] for row in made["checks"]}
    assert kinds == {"equal to plain", "same seed", "killed and resumed", "the suite against plain",
                     *(f"a base in {kind}" for kind in measure.QUANTISED)}  # fmt: skip
    assert all(row["training"] > 0 and row["writing"] > 0 for row in made["rows"]) and len(made["rows"]) == 4
    assert not (tmp_path / "reports" / "gpu" / "report.md").exists()
