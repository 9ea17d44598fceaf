"""Contrastive Prompting: what an auxiliary prompt calls irrelevant is taken off the last token at an early layer.

The auxiliary prompt runs up to the attention of layer ℓ; the concatenated heads of its last token (what enters the
output projection) are B. The normal prompt then runs with its own, A, replaced there by C·(A − B), or by
(A − B)·‖A‖/‖A − B‖. Source: Cheng et al. (ACL 2025); their settings: LLaMA-2-7B ℓ = 4, C = 0.5, read at 27;
LLaMA-3-8B ℓ = 6, C = 0.25, read at −2.
"""

import contextlib

import torch

from sempa_utils.checks import pick
from sempa_utils.data.templates import EXTRACTION_TEMPLATES
from sempa_utils.embedding.method import Method, at_depth, check_layer, is_like_llama3
from sempa_utils.embedding.reading import input_of

AUXILIARY = 'The irrelevant information of this sentence : "{x}" means in one word:"'
MODES = ("scaled", "norm")


def contrastive_prompting(
    config,
    auxiliary: str = AUXILIARY,
    *,
    steered_layer: int | None = None,
    scale: float | None = None,
    mode: str = "scaled",
) -> Method:
    """Return Contrastive Prompting; `mode` "scaled" multiplies A − B by `scale`, "norm" gives it A's length.

    By default the authors' settings at the model's depth.
    """
    layers, like_llama3 = config.num_hidden_layers, is_like_llama3(config)
    if steered_layer is None:
        steered_layer = at_depth(6 if like_llama3 else 4, layers)
    check_layer(steered_layer, layers, what="Contrastive Prompting: steered_layer")
    if scale is None:
        scale = 0.25 if like_llama3 else 0.5
    pick(mode, MODES, what="mode of Contrastive Prompting")

    @contextlib.contextmanager
    def steer(model_layers, batch, run):
        projection = model_layers[steered_layer].self_attn.o_proj
        irrelevant = input_of(projection, run)[:, -1]

        def steered(_, arguments):
            heads = arguments[0].clone()
            difference = heads[:, -1] - irrelevant
            if mode == "scaled":
                heads[:, -1] = scale * difference
            else:
                length = heads[:, -1].norm(dim=-1, keepdim=True)
                smallest = torch.finfo(difference.dtype).tiny  # equal prompts leave nothing, and no NaN
                heads[:, -1] = difference * length / difference.norm(dim=-1, keepdim=True).clamp(min=smallest)
            return (heads, *arguments[1:])

        handle = projection.register_forward_pre_hook(steered)
        try:
            yield
        finally:
            handle.remove()

    layer = -2 if like_llama3 else at_depth(27, layers)
    return Method(EXTRACTION_TEMPLATES["prompteol"], "last", layer, auxiliary, steer)
