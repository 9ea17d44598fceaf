"""Mixtures of experts: what NF4 and LoRA reach of them, told from the weights and not from a list of models.

Their experts lie as one stacked parameter, which bitsandbytes 0.50 leaves in full precision, and which PEFT 0.21 adapts
in some types of model, the router with it, and passes over in others.
"""

from typing import Any

from sempa_utils.models import identity

COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")  # under which configurations keep their number
ROUTERS = ("gate", "router")


def routers(model: Any) -> list[str]:
    """Return the names of the matrices that choose among experts; none in a model without them."""
    config = identity.base_model(model).config
    if not any(getattr(config, name, None) for name in COUNTS):
        return []
    names = (
        name.removesuffix(".weight") for name, weight in identity.base_parameters(model).items() if weight.ndim == 2
    )
    return [name for name in names if any(part in ROUTERS for part in name.split(".")[-2:])]


def hold_routers(model: Any) -> None:
    """Take what an adapter has put on the routers out of training: it begins at nothing and stays there."""
    held = {f"{name}.lora_" for name in routers(model)}
    for name, parameter in identity.adapter_tensors(model).items():
        plain = identity.WRAPPED.sub(".", name)
        if any(plain.startswith(prefix) for prefix in held):
            parameter.requires_grad_(False)


def stacked(model: Any) -> dict[str, int]:
    """Return the stacked experts of a model: {name of the parameter: how many numbers it holds}."""
    weights = identity.base_parameters(model).items()
    return {name: weight.numel() for name, weight in weights if weight.ndim == 3 and "expert" in name}


def left_by_nf4(model: Any) -> str | None:
    """Return a line on what NF4 leaves of a model in full precision; None where it packs every layer."""
    experts = sum(stacked(model).values())
    if not experts:
        return None
    share = experts / sum(shape.numel() for shape in identity.weight_shapes(model).values())
    return f"NF4 leaves the experts in full precision, {100 * share:.0f} % of the weights"


def reached_by(adapted: Any) -> str | None:
    """Return a line on what an adapter trains of a mixture of experts; None for a model that is none."""
    experts, chosen_by = stacked(adapted), routers(adapted)
    if not experts and not chosen_by:
        return None
    trained = [name for name, tensor in identity.adapter_tensors(adapted).items() if tensor.requires_grad]
    names = {identity.WRAPPED.sub(".", name).split(".lora_")[0] for name in trained}
    of_experts = any(name.startswith(expert.rpartition(".")[0]) for name in names for expert in experts)
    parts = {"experts": of_experts, "router": any(name in names for name in chosen_by)}
    return "LoRA trains " + ", ".join(f"{'' if is_so else 'not '}the {part}" for part, is_so in parts.items())
