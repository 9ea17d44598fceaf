"""How much memory training needs, before it is tried: one step is run on tensors that have shapes and no bytes.

PyTorch's "meta" device computes shapes alone. The model is built there with its adapter and goes through
the trainer's own step (policy, reference, divergence, backward), while every array that comes and goes is counted.
So the count knows objective, architecture, PEFT, bitsandbytes and gradient checkpointing as they are; an 8B model takes
seconds and no download of weights. Arrays alone are counted: the CUDA context, the libraries and what an
allocator holds back come on top (on the CPU, resident memory was 1.2 to 2.2 times the count).
"""

import contextlib
import functools
import json
import warnings
import weakref
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from sempa_utils import models
from sempa_utils.checks import InputError, pick
from sempa_utils.objectives import TokenCounts
from sempa_utils.training.recipe import MOMENTS, Recipe, lora_config, train_in_float32
from sempa_utils.training.step import Batch, Step

GIB = 2**30
SPARE = 0.1  # the share of a card that advice leaves to the CUDA context and to gaps between arrays


class Published(NamedTuple):
    """A public model: its id on the hub, its licence, whether the hub asks for an agreement first, its config.json."""

    model: str
    licence: str
    access: str
    family: type[PreTrainedConfig]
    keywords: dict


def _sizes(vocabulary, width, inner, layers, heads, key_value_heads, positions, base=10_000.0, tied=False, **other):
    """Return a configuration's keywords; `base` is that of the rotary positions."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "tie_word_embeddings": tied,
        **other,
    }


_OPEN, _GATED, _ASKED = "open", "log in and accept", "log in if asked"  # Mistral's were gated for a time
_LLAMA_2, _LLAMA_3 = "Llama 2 Community", "Llama 3 Community"
_APACHE, _HUGGING_FACE = "Apache-2.0", "HuggingFaceTB/SmolLM2-"
SHAPES = {  # from the published config.json files
    "smollm2-135m": Published(f"{_HUGGING_FACE}135M-Instruct", _APACHE, "packaged", LlamaConfig,
                              _sizes(49152, 576, 1536, 30, 9, 3, 8192, 1e5, tied=True)),
    "smollm2-360m": Published(f"{_HUGGING_FACE}360M", _APACHE, _OPEN, LlamaConfig,
                              _sizes(49152, 960, 2560, 32, 15, 5, 8192, 1e5, tied=True)),
    "qwen2.5-0.5b": Published("Qwen/Qwen2.5-0.5B", _APACHE, _OPEN, Qwen2Config,
                              _sizes(151936, 896, 4864, 24, 14, 2, 32768, 1e6, tied=True)),
    "tinyllama-1.1b": Published("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", _APACHE, _OPEN, LlamaConfig,
                                _sizes(32000, 2048, 5632, 22, 32, 4, 2048)),
    "qwen2.5-1.5b": Published("Qwen/Qwen2.5-1.5B", _APACHE, _OPEN, Qwen2Config,
                              _sizes(151936, 1536, 8960, 28, 12, 2, 131072, 1e6, tied=True)),
    "smollm2-1.7b": Published(f"{_HUGGING_FACE}1.7B", _APACHE, _OPEN, LlamaConfig,
                              _sizes(49152, 2048, 8192, 24, 32, 32, 8192, 1.3e5, tied=True)),
    "llama-2-7b": Published("meta-llama/Llama-2-7b-hf", _LLAMA_2, _GATED, LlamaConfig,
                            _sizes(32000, 4096, 11008, 32, 32, 32, 4096)),
    "mistral-7b-v0.3": Published("mistralai/Mistral-7B-v0.3", _APACHE, _ASKED, MistralConfig,
                                 _sizes(32768, 4096, 14336, 32, 32, 8, 32768, 1e6, sliding_window=None)),
    "qwen2.5-7b": Published("Qwen/Qwen2.5-7B", _APACHE, _OPEN, Qwen2Config,
                            _sizes(152064, 3584, 18944, 28, 28, 4, 131072, 1e6)),
    "llama-3-8b": Published("meta-llama/Meta-Llama-3-8B", _LLAMA_3, _GATED, LlamaConfig,
                            _sizes(128256, 4096, 14336, 32, 32, 8, 8192, 5e5)),
}  # fmt: skip


# The longest of the 64 micro-batches of 8 in the triplets that `TokenCounts` is the mean of.
LONGEST = TokenCounts(instruction=22, anchor=42, answer=16, sentence=32)


class _Setting(NamedTuple):
    precision: str
    compute: torch.dtype
    recipe: Recipe
    tokens: TokenCounts


def shape(name: str) -> PreTrainedConfig:
    """Return the configuration of a name of `SHAPES`, of "packaged", a model directory or a hub id.

    Raises `InputError` where it cannot be had.
    """
    if name in SHAPES:
        return SHAPES[name].family(**SHAPES[name].keywords)
    try:
        return AutoConfig.from_pretrained(models.fetch(name), trust_remote_code=False)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{name}: no model configuration there. Name a model directory, a hub id that this machine can "
            f"reach, 'packaged', or one of: {', '.join(SHAPES)}."
        ) from error


def plan(
    config: PreTrainedConfig,
    precision: str,
    *,
    recipe: Recipe,
    tokens: TokenCounts = TokenCounts(),  # noqa: B008 (a tuple)
    compute_dtype: torch.dtype | None = None,
) -> dict[str, int]:
    """Return the bytes of each part at the peak: weights, adapter, optimiser, gradients, activations, logits.

    `compute_dtype` is what nf4 computes in: torch.float32 on a CPU, by default bfloat16. Logits are all
    arrays of the vocabulary's width, activations all else that lives at the peak. Of TRL's own batches the head is
    counted in one piece (TRL cuts it into tiles, so a little more than it needs). Raises `InputError` for an unknown
    precision, or a number of tokens below one.
    """
    pick(precision, models.PRECISIONS, what="precision")
    for name, size in tokens._asdict().items():
        if size < 1:
            raise InputError(f"Memory plan: {name} must be 1 or more, not {size}.")
    compute = (compute_dtype or torch.bfloat16) if precision == "nf4" else getattr(torch, precision)
    # What decides about no array is set to one value, so that the same count is found again.
    same = recipe.changed(seed=42, learning_rate=1.0, optimizer="adamw_torch", accumulation=1, save_every=1)
    setting = _Setting(precision, compute, same, tokens)
    counted = _count(config.to_json_string(use_diff=False), type(config), setting)
    trained = counted["adapter"] // 4
    return counted | {"optimiser": trained * MOMENTS[recipe.optimizer], "gradients": trained * 4}


def total(planned: dict[str, int]) -> int:
    """Return a plan's sum in bytes."""
    return sum(planned.values())


def advice(
    config: PreTrainedConfig,
    precision: str,
    *,
    recipe: Recipe,
    capacity_bytes: int,
    tokens: TokenCounts = LONGEST,
    compute_dtype: torch.dtype | None = None,
) -> str:
    """Say what a setting needs, what the card has, and which smaller setting fits, in one or two sentences.

    A setting fits if its plan leaves `SPARE` of `capacity_bytes` free. Raises `InputError` as `plan` does.
    """

    def need(precision: str = precision, **changes) -> int:
        changed = recipe.changed(**changes)
        return total(plan(config, precision, recipe=changed, tokens=tokens, compute_dtype=compute_dtype))

    def largest(**fixed) -> int | None:
        size = recipe.micro_batch
        with contextlib.suppress(InputError):  # an objective may need more rows than are left
            while size and need(micro_batch=size, **fixed) > room:
                size //= 2
            return size or None
        return None

    room = (1 - SPARE) * capacity_bytes
    needed = need()
    text = (
        f"Micro-batches of {recipe.micro_batch} in {precision} need {needed / GIB:.2f} GiB and the card has "
        f"{capacity_bytes / GIB:.2f} GiB, of which {room / GIB:.2f} may be planned with"
    )
    if needed <= room:
        return f"{text}: by the plan this fits; other programs may hold memory of the card."
    alternatives: dict[str, dict[str, Any]] = {"micro_batch={}": {}}
    if not recipe.gradient_checkpointing:
        alternatives["gradient checkpointing and micro_batch={}"] = {"gradient_checkpointing": True}
    if precision != "nf4":
        for words, changes in list(alternatives.items()):
            alternatives[f"nf4{', ' if 'and' in words else ' and '}{words}"] = changes | {"precision": "nf4"}
    sizes = {words: largest(**changes) for words, changes in alternatives.items()}
    fitting = [words.format(size) for words, size in sizes.items() if size]
    if not fitting:
        return f"{text}. Nothing fits, not even one triplet at a time: take a smaller model or a larger card."
    return f"{text}. What fits: {'; or '.join(fitting)} (raise accumulation to keep the batch)."


def operations(config: PreTrainedConfig, recipe: Recipe, *, tokens: TokenCounts = TokenCounts()) -> int:  # noqa: B008
    """Return the floating-point operations of one triplet of pairwise training: products with frozen weights alone.

    Two a weight and token: forward, its gradient and the reference, and with gradient checkpointing the
    forward again. Attention, the adapter and the unpacking of nf4 come on top.
    """
    model = empty(config)
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    layers = sum(module.weight.numel() for module in linear)
    # An answer's last token is read off the token before it.
    places = tokens.instruction / recipe.micro_batch + tokens.anchor + 2 * (tokens.answer - 1)
    passes = 4 if recipe.gradient_checkpointing else 3
    return round(2 * (passes * places * layers + 3 * 2 * tokens.answer * head.weight.numel()))


def empty(config: PreTrainedConfig):
    """Return a model of these sizes without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@functools.lru_cache(maxsize=64)
def _count(config_text: str, config_class, setting: _Setting) -> dict[str, int]:
    config = config_class.from_dict(json.loads(config_text))
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _adapted(config, setting)
    weights = adapter = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            adapter += parameter.nbytes
        else:
            weights += parameter.nbytes + _scale_bytes(parameter)
    live = _Live(model)
    with warnings.catch_warnings(), _as_trained(setting), live:
        warnings.simplefilter("ignore")
        _step(model, setting)
    return {"weights": weights, "adapter": adapter} | live.peak


def _adapted(config, setting: _Setting):
    """Return the model with its adapter on the meta device, as `models.load` and the trainer leave it."""
    from peft import get_peft_model

    model = AutoModelForCausalLM.from_config(config, dtype=setting.compute, attn_implementation="sdpa")
    if setting.precision == "nf4":
        _pack(model, setting.compute)
    model: Any = get_peft_model(model, lora_config(setting.recipe, model))
    if not setting.recipe.train_router:
        models.hold_routers(model)
    if setting.recipe.gradient_checkpointing:
        model.enable_input_require_grads()
        model.get_base_model().activation_checkpointing_enable()
    train_in_float32(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)  # as in the midst of an accumulation
    return model.train()


def _pack(model, compute: torch.dtype) -> None:
    """Put bitsandbytes' 4-bit layers, double quantisation, in the place of every linear layer but the head."""
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit, Params4bit

    model.is_loaded_in_4bit = True  # PEFT asks for it
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or module is model.get_output_embeddings():
            continue
        packed = Linear4bit(module.in_features, module.out_features, module.bias is not None, compute)
        blocks = -(-module.weight.numel() // 64)
        scales = QuantState(torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32)
        state = QuantState(
            torch.empty(blocks, dtype=torch.uint8),
            module.weight.shape,
            torch.empty(16),
            blocksize=64,
            quant_type="nf4",
            dtype=compute,
            offset=torch.empty(()),
            state2=scales,
        )
        data = torch.empty((module.weight.numel() + 1) // 2, 1, dtype=torch.uint8)
        make: Any = Params4bit  # its signature is in __new__; a type checker reads the one of torch's Parameter
        packed.weight = make(data, quant_state=state, quant_type="nf4", bnb_quantized=True, module=packed)
        model.set_submodule(name, packed)


def _scale_bytes(parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return 0
    return sum(one.nbytes for one in (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code))


def example_batch(recipe: Recipe, tokens: TokenCounts) -> Batch:
    """Return a full micro-batch of made-up rows with these token counts."""
    count = recipe.micro_batch
    rows = [recipe.objective.example(number, tokens, max_length=recipe.max_length) for number in range(count)]
    return Step(recipe).collate(rows)


def _step(model, setting: _Setting) -> None:
    """Run a micro-batch as the trainer does."""
    recipe = setting.recipe
    if recipe.shared_prefix:
        batch = example_batch(recipe, setting.tokens)
        outcome = Step(recipe).compute(model, batch.to("meta")._replace(rows=batch.rows))
        outcome.loss.backward()
        return
    policy = _stock_scores(model, setting).view(-1, 2)
    with torch.no_grad(), model.disable_adapter():
        reference = _stock_scores(model, setting).view(-1, 2)
    (-torch.nn.functional.logsigmoid((policy - reference).diff(dim=1)).mean()).backward()


def _stock_scores(model, setting: _Setting) -> torch.Tensor:
    tokens, recipe = setting.tokens, setting.recipe
    rows, length = 2 * recipe.micro_batch, min(sum(tokens[:3]), recipe.max_length)
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    mask = torch.zeros(rows, 1, length, length, dtype=next(model.parameters()).dtype, device="meta")
    answer = min(tokens.answer, length - 1)
    keep = slice(length - 1 - answer, length - 1)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep, use_cache=False).logits.float()
    found = logits.gather(-1, ids[:, :answer, None])[..., 0] - logits.logsumexp(dim=-1)
    return found.sum(dim=1)


@contextlib.contextmanager
def _as_trained(setting: _Setting):
    """Make the meta device do what the training device does: fused attention, and autocast if it is on."""
    functions = torch.nn.functional
    plain_linear, mixed = functions.linear, setting.compute != torch.float32

    def cast(tensor: Any) -> Any:
        return tensor.to(setting.compute) if mixed and tensor is not None else tensor

    def linear(states, weight, bias=None):
        return plain_linear(cast(states), cast(weight), cast(bias))

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        # Left to itself the meta device takes the plain kernel, which keeps every attention matrix.
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        products = (cast(query), cast(key), cast(value), dropout_p, is_causal)
        return fused(*products, attn_mask=cast(attn_mask), scale=scale)[0]

    def grouped_mm(states, weight, **_):
        return states @ weight[0]  # of this shape, whichever expert a token goes to

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(functions, "linear", linear))
        stack.enter_context(mock.patch.object(functions, "scaled_dot_product_attention", attention))
        stack.enter_context(mock.patch.object(functions, "grouped_mm", grouped_mm))
        # Torch has no autocast for the meta device; PEFT's layers over experts switch it off, 4-bit ones ask for it.
        stack.enter_context(mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()))
        if mixed:
            stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", lambda *_: True))
        yield


class _Live(TorchDispatchMode):
    """Counts the bytes of the arrays that are alive, and keeps the highest sum, apart for the logits."""

    def __init__(self, model):
        super().__init__()
        self.vocabulary = model.get_output_embeddings().weight.shape[0]
        lying = [*model.parameters(), *model.buffers()]
        lying += [tensor.grad for tensor in lying if tensor.grad is not None]
        self.seen = {tensor.untyped_storage()._cdata for tensor in lying}  # counted apart
        self.now = {"activations": 0, "logits": 0}
        self.peak = dict(self.now)

    def __torch_dispatch__(self, func, types, args: tuple = (), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return True  # what is read off a tensor is whether all is well: finite, within its bounds
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._enter(tensor)
        extra = 0
        if func.name() == "bitsandbytes::gemm_4bit":
            rows, columns = args[2]
            extra = rows * columns * result.element_size()  # the matrix is unpacked for the product
        if sum(self.now.values()) + extra > sum(self.peak.values()):
            self.peak = self.now | {"activations": self.now["activations"] + extra}
        return result

    def _enter(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.seen:
            return
        wide = tensor.dim() > 1 and tensor.shape[-1] == self.vocabulary
        part = "logits" if wide else "activations"
        self.seen.add(storage._cdata)
        self.now[part] += storage.nbytes()
        weakref.finalize(storage, self._leave, storage._cdata, part, storage.nbytes())

    def _leave(self, key: int, part: str, size: int) -> None:
        self.seen.discard(key)
        self.now[part] -= size
