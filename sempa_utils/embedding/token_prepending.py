"""Token Prepending: each early layer's sentence state is put before the sentence in the next layer.

A placeholder token stands before the sentence. Before each layer i with first ≤ i < end its state is
overwritten by the last token's, so that the sentence's tokens can see what a causal model learns
only at the end. Source: Fu et al. (ACL 2025); their settings: LLaMA-2-7B layers 1 to 7, read at 27;
LLaMA-3-8B layers 1 to 3, read at −2.
"""

import contextlib

import torch

from sempa_utils.checks import InputError
from sempa_utils.embedding.method import PLACEHOLDER, Method, at_depth, check_layer, is_like_llama3

TEMPLATE = f'This sentence : {PLACEHOLDER} "{{x}}" means in one word:"'


def token_prepending(
    config, template: str = TEMPLATE, *, first: int = 1, end: int | None = None, seed: int = 42
) -> Method:
    """Return Token Prepending in the layers `first` ≤ i < `end`, by default the authors' at the model's depth.

    The placeholder starts as a random vector, drawn by `seed` with the spread of the model's own embeddings.
    """
    layers, like_llama3 = config.num_hidden_layers, is_like_llama3(config)
    if end is None:
        end = max(first + 1, at_depth(3 if like_llama3 else 7, layers))
    check_layer(first, layers, what="Token Prepending: first")
    check_layer(end, layers + 1, what="Token Prepending: end", lowest=first + 1)
    if template.count(PLACEHOLDER) != 1 or template.find(PLACEHOLDER) > template.find("{x}"):
        raise InputError(f"Token Prepending: the template {template!r} needs {PLACEHOLDER} once, before {{x}}.")

    @contextlib.contextmanager
    def steer(model_layers, batch, run):
        rows = torch.arange(len(batch.placeholder), device=batch.placeholder.device)

        def put(choose):
            def hook(_, arguments):
                states = arguments[0].clone()
                states[rows, batch.placeholder] = choose(arguments[0])
                return (states, *arguments[1:])

            return hook

        def random_vector(states):
            noise = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(seed))
            return (noise * batch.embedding_spread).to(states)

        handles = [model_layers[0].register_forward_pre_hook(put(random_vector))]
        try:
            for layer in model_layers[first:end]:
                handles.append(layer.register_forward_pre_hook(put(lambda states: states[:, -1])))
            yield
        finally:
            for handle in handles:
                handle.remove()

    return Method(template, "last", -2 if like_llama3 else at_depth(27, layers), steer=steer)
