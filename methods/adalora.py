"""AdaLoRA: LoRA as a singular value decomposition whose least important parts are pruned (arXiv:2303.10512)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter

STATE = "_adalora"


@dataclass(frozen=True)
class AdaLoRA(Adapter):
    """W x + (alpha / first_rank) P diag(e) Q x (Zhang et al. 2023): steps prune e until `rank` a layer are left.

    Which layers keep more is decided by the importance of each direction (their equations 7 to 12), over all layers.
    The `first` and the `last` are shares of the steps, before pruning begins and after it has ended.
    """

    name: ClassVar[str] = "adalora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-2}

    first_rank: int = 12
    rank: int = 8
    alpha: float = 32.0
    orthogonality: float = 0.1
    beta: float = 0.85
    first: float = 0.1
    last: float = 0.3

    def config(self, targets):
        """PEFT's AdaLoRA. Its own pruning, whose steps these settings count, is not used."""
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            task_type="CAUSAL_LM",
            init_r=self.first_rank,
            target_r=self.rank,
            lora_alpha=self.alpha,
            total_step=1,
            target_modules=targets,
        )

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's AdaLoRA; the rank, which PEFT would train, is a constant as in the paper."""
        adapted = super().attach(model, tokenizer)
        for name, parameter in adapted.named_parameters():
            if ".ranknum" in name:
                parameter.requires_grad_(False)
        return adapted

    def layer(self, inputs: int, outputs: int) -> int:
        """Q, P and e: first_rank x (inputs + outputs + 1). What is pruned is a trained 0."""
        return self.first_rank * (inputs + outputs + 1)

    def constants(self, inputs: int, outputs: int) -> int:
        """PEFT divides by first_rank, and holds it beside each layer."""
        return 1

    def penalty(self, model):
        """How far P and Q are from orthogonal: the mean of |P'P - I| and |QQ' - I|, weighted.

        Equation 4 of the paper adds the squares of these norms; the norms themselves are what PEFT trains with.
        """
        import torch

        found = []
        for name, tensor in trained(model):
            if ".lora_E" not in name:
                gram = tensor @ tensor.T if ".lora_A" in name else tensor.T @ tensor
                found.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.orthogonality * torch.stack(found).mean()

    def after_step(self, model, step, steps):
        """Updates the importance of every direction; sets those to 0 that the budget of this step has no room for."""
        import torch

        state = self.step_state(model)
        parameters = dict(trained(model))
        singular = [name for name in parameters if ".lora_E" in name]
        with torch.no_grad():
            if step <= round((1 - self.last) * steps):
                for name, tensor in parameters.items():
                    self.smooth(name, (tensor * tensor.grad).abs(), state)
                scores = [score(name, state) for name in singular]
                budget = self.budget(step, steps, len(singular))
                left = torch.zeros(sum(map(len, scores)), dtype=torch.bool)
                left[torch.cat(scores).cpu().topk(budget).indices] = True
                kept = left.split([len(one) for one in scores])
                state["kept"].update(zip(singular, kept, strict=True))
            for name in singular:
                parameters[name].masked_fill_(~state["kept"][name].to(parameters[name].device)[:, None], 0.0)

    def budget(self, step, steps, layers):
        """Directions that are left after a step, in all layers together: a cubic fall (equation 12)."""
        first, last = self.first_rank * layers, self.rank * layers
        begin, end = self.first * steps, (1 - self.last) * steps
        left = 1.0 if end <= begin else min(1.0, max(0.0, 1 - (step - begin) / (end - begin)))
        return last + int((first - last) * left**3)

    def smooth(self, name, now, state):
        """The running mean of a parameter's |value x gradient|, and of how far it strays from it."""
        mean, strays = (state[part].get(name, now.new_zeros(now.shape)) for part in ("mean", "strays"))
        mean = self.beta * mean + (1 - self.beta) * now
        state["mean"][name] = mean
        state["strays"][name] = self.beta * strays + (1 - self.beta) * (now - mean).abs()

    def step_state(self, model):
        """The running means, and which directions are left."""
        return vars(model).setdefault(STATE, {"mean": {}, "strays": {}, "kept": {}})


def trained(model):
    """The trained parameters by name: lora_A is Q, lora_B is P, lora_E is e."""
    return [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]


def score(name, state):
    """rank: the importance of each direction of the layer whose e is called `name` (equation 8)."""

    def one(part):
        other = name.replace(".lora_E", part)
        return state["mean"][other] * state["strays"][other]

    return one(".lora_E")[:, 0] + one(".lora_A").mean(dim=1) + one(".lora_B").mean(dim=0)
