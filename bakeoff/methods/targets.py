"""The layers that a method's `targets` name: some by name, an architecture's own, or all linear ones."""

from collections.abc import Sequence

from bakeoff.core.errors import UsageError
from bakeoff.methods.parameters import Shapes

AUTO, ALL = "auto", "all-linear"
FALLBACK = (
    ("q_proj", "v_proj"),
    ("query_key_value",),
    ("qkv_proj",),
    ("Wqkv",),
    ("c_attn",),
    ("q_b_proj", "kv_b_proj"),
    ("Wq", "Wv"),
    ("q", "v"),
    ("in_proj",),
)
"""Queries and values, fused or not, else a state space's input, by the names in use: where PEFT lists no default."""


def target_names(targets: Sequence[str] | str, shapes: Shapes) -> tuple[str, ...]:
    """The names that `targets` stands for, as PEFT takes them.

    `auto` is what PEFT adapts by default in this architecture, else the first of FALLBACK that the model has;
    `all-linear` is every linear layer but the output head, and experts where PEFT knows them as such. Raises UsageError
    where an architecture has no targets by default.
    """
    if targets == ALL:
        linear = [name for name in shapes.linear if name != shapes.head]
        if several := experts_of(shapes):  # PEFT translates last names alone
            return tuple(dict.fromkeys([*(name.rpartition(".")[2] for name in linear), *several]))
        return tuple(linear)
    if targets != AUTO:
        return tuple(targets)
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as OWN

    listed = OWN.get(shapes.model_type, [])
    own = () if isinstance(listed, str) else tuple(target for target in listed if matching(target, shapes))
    for known in (own, *FALLBACK):
        if known and all(matching(target, shapes) for target in known):
            return known
    raise UsageError(
        f"PEFT knows no default targets of {shapes.model_type!r}; type --set 'methods.NAME.targets=[\"LAYER\"]' with "
        f"some of its linear layers: {listing(shapes)}"
    )


def target_layers(targets: Sequence[str] | str, shapes: Shapes) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each matrix that `targets` names, by its name; an embedding's are vocabulary and width.

    A target names the layers whose name is it, or ends in a dot and it, as PEFT has it. Raises UsageError for a target
    that names none, with the linear layers that exist.
    """
    found = {}
    for target in target_names(targets, shapes):
        hits = matching(target, shapes)
        if not hits:
            raise UsageError(
                f"targets: {target!r} is no linear layer of this model; its linear layers are {listing(shapes)}"
            )
        found.update(hits)
    if not found:
        raise UsageError(f"targets is empty; name some of {listing(shapes)}, or type {AUTO!r} or {ALL!r}")
    return found


def matching(target: str, shapes: Shapes) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the matrices that the one `target` names."""
    last = target.rpartition(".")[2]
    if last in (known := experts_of(shapes)):
        return experts(last, known[last], shapes)
    layers = dict(shapes.linear)
    if shapes.embedding:
        vocabulary, width = shapes[f"{shapes.embedding}.weight"]
        layers[shapes.embedding] = (vocabulary, width)
    return {name: size for name, size in layers.items() if name == target or name.endswith(f".{target}")}


def experts_of(shapes: Shapes) -> dict[str, str]:
    """The parameter that holds an expert's layer, by the layer's name: `{"gate_proj": "gate_up_proj", ...}`.

    Since transformers 5 the experts of a layer are one tensor, and what reads the same input is fused; PEFT translates
    the names that people use. Empty for a model without experts, and where PEFT does not translate.
    """
    from peft.utils import transformers_weight_conversion as peft

    if peft.get_checkpoint_conversion_mapping(shapes.model_type) is None:
        return {}
    kin = peft._MODEL_TO_CONVERSION_PATTERN.get(shapes.model_type, "")
    known = peft._MOE_TARGET_MODULE_MAPPING.get(kin, {})
    return {name: home for name, home in known.items() if any(own.endswith(f".{home}") for own in shapes)}


def experts(name: str, home: str, shapes: Shapes) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the matrices in the parameters `home` that stand for the layer `name`.

    PEFT gives a fused matrix the ranks of all layers in it, so it counts whole at each of their names.
    """
    found = {}
    for own in shapes:
        if own.endswith(f".{home}"):
            *several, outputs, inputs = shapes[own]
            for number in range(several[0] if several else 1):
                found[f"{own}.{number}.{name}"] = (inputs, outputs)
    return found


def listing(shapes: Shapes) -> str:
    """The linear layers by their last names, each once, then the names of experts."""
    names = (name.split(".") for name in shapes.linear)
    last = (".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1] for parts in names)
    return ", ".join(dict.fromkeys([*last, *experts_of(shapes)])) or "none"
