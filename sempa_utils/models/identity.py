"""What a model is known by: fingerprints of weights, tokenizer and adapter, and the key under which a figure is kept.

A record and an adapter name their base by `weights_fingerprint`, which is the same in every precision. A kept figure
asks for more: its key is made of all that it depends on, so that nothing kept is taken for what it is not.
"""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from sempa_utils.checks import InputError, fingerprint

PACKAGES = ("torch", "transformers", "tokenizers")  # take part in every figure
UNSAVED = "unsaved"  # in the place of an adapter's fingerprint, where it was never in a folder
COLUMNS = 1021  # a prime, so that rows which change places come to stand in other columns
WRAPPED = re.compile(r"(\.(token_adapter\.)?(base_layer|original_module))+\.")  # where PEFT keeps what it covers
# Of a configuration: where it came from, and a switch that training and generation turn.
NO_SETTINGS = {"transformers_version", "architectures", "use_cache"}
OF_NO_EFFECT = {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"}


def figure_key(producer: str, revision: int, *, packages: tuple[str, ...] = (), **depends_on: Any) -> str:
    """Return the key of a kept figure: 16 hexadecimal digits of all that it depends on.

    `producer` computes it, in its `revision`: a constant beside it, raised with every change that moves a figure;
    `packages` are the libraries that take part beside torch and transformers. All else is named by the caller: what
    JSON can hold, or dataclasses of it. Raises TypeError for anything that has no such form.
    """
    versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)}
    parts = {"producer": producer, "revision": revision, "versions": versions, "depends_on": depends_on}
    return fingerprint(json.dumps(parts, sort_keys=True, default=_fields))


def _fields(value: Any) -> dict[str, Any]:
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"{type(value).__name__} has no lasting form and cannot be part of a key.")
    return asdict(value)


# --- the base and what lies on it ----------------------------------------------------------------


def base_model(model: Any) -> Any:
    """Return the causal language model itself, without PEFT's wrapper around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_of(model: Any) -> Any:
    """Return the transformer without its language-model head, adapters included.

    Some types name no decoder, or the head as one: then it is the one transformer that they hold. Raises `InputError`
    where there is none.
    """
    bare = base_model(model)
    named, parts = bare.get_decoder(), [part for part in bare.children() if isinstance(part, PreTrainedModel)]
    if isinstance(named, PreTrainedModel) and named is not bare:
        return named
    if len(parts) != 1:
        raise InputError(f"{type(bare).__name__}: its decoder is not to be told. Name another model.")
    return parts[0]


def text_config(model: Any) -> Any:
    """Return the configuration of the language model, also where it is a part of a model that sees or hears."""
    return base_model(model).config.get_text_config(decoder=True)


def adapter_layers(model: Any) -> dict[str, Any]:
    """Return the modules that PEFT has put in the place of the base's, by name, whatever the kind of adapter."""
    return {name: part for name, part in base_model(model).named_modules() if hasattr(part, "adapter_layer_names")}


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers that are the adapter's and not the base's, by name."""
    parts = adapter_layers(model)
    if isinstance(prompts := getattr(model, "prompt_encoder", None), nn.Module):  # lies beside the base
        parts["prompt_encoder"] = prompts
    tensors = {}
    for name, part in parts.items():
        for key, tensor in (*part.named_parameters(), *part.named_buffers()):
            if not WRAPPED.search(f".{key}"):
                tensors[f"{name}.{key}"] = tensor
    return tensors


def adapter_is_on(model: nn.Module) -> bool:
    """Tell whether an adapter takes part in what the model computes just now."""
    prompts = isinstance(getattr(model, "prompt_encoder", None), nn.Module)
    return prompts or any(not layer.disable_adapters for layer in adapter_layers(model).values())


def adapter_digest(model: Any) -> str | None:
    """Return 16 hexadecimal digits of the adapter that takes part just now: its kind, settings and weights."""
    if not adapter_is_on(model):
        return None
    settings = {}
    for name, config in getattr(model, "peft_config", {}).items():
        kept = {key: value for key, value in config.to_dict().items() if key not in OF_NO_EFFECT}
        settings[name] = json.dumps(kept, sort_keys=True, default=_listed)
    active = sorted({str(layer.active_adapters) for layer in adapter_layers(model).values()})
    return fingerprint(settings, active, weights_digest(adapter_tensors(model)))


def _listed(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the base's parameters by their own names, whatever adapter lies on it."""
    return _of_base(model, base_model(model).named_parameters())


def base_digest(model: nn.Module) -> str:
    """Return `weights_digest` of all that the base holds as it lies in memory, whatever adapter lies on it."""
    return weights_digest(base_tensors(model))


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the base's weights and saved buffers by their own names, tied ones once, whatever adapter lies on it."""
    return _of_base(model, base_model(model).state_dict(keep_vars=True).items())


def _of_base(model: nn.Module, tensors: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    foreign, of_base, seen = adapter_tensors(model), {}, set()
    for name, tensor in tensors:
        if name not in foreign and isinstance(tensor, Tensor) and id(tensor) not in seen:  # tied ones once
            seen.add(id(tensor))
            of_base[WRAPPED.sub(".", name)] = tensor
    return of_base


def weight_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return the base model's weight names and logical shapes; packed 4-bit weights count unpacked."""
    weights = base_parameters(model).items()
    return {name: (getattr(weight, "quant_state", None) or weight).shape for name, weight in weights}


# --- fingerprints --------------------------------------------------------------------------------


def weights_fingerprint(model: nn.Module, files: Iterable[Path] = ()) -> str:
    """Return 16 hexadecimal digits that name base weights by each one's first row, in bfloat16.

    Rows that `files` have are taken from there: of NF4 weights, which lie rounded in memory. So a model has one name in
    every precision. What else the files hold (tied copies, old buffers) does not count.
    """
    rows: dict[str, Any] = base_parameters(model)
    for path in files:
        with safe_open(path, "pt") as tensors:
            known = {name: tensors.get_slice(name) for name in rows.keys() & set(tensors.keys())}
            rows |= {name: part[:1] if part.get_shape() else tensors.get_tensor(name) for name, part in known.items()}
    digest = hashlib.sha256()
    for name in sorted(rows):
        row = rows[name].detach()[:1] if rows[name].ndim else rows[name].detach()
        row = row.to("cpu", torch.bfloat16).contiguous().reshape(-1)
        digest.update(name.encode() + row.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hexadecimal digits of every byte of tensors: of sums over 1021 columns of eight bytes.

    A tenth of a second for 135M weights in float32 on one core; computed where the tensors lie.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        data = tensor.contiguous().reshape(-1).view(torch.uint8)
        data = data.clone() if data.storage_offset() % 8 else data
        whole = data.numel() // (8 * COLUMNS) * 8 * COLUMNS
        sums = data[:whole].view(torch.int64).view(-1, COLUMNS).sum(dim=0)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(sums.cpu().numpy().tobytes() + data[whole:].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return 16 hexadecimal digits of all that a text's tokens depend on, chat template and padding included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = sorted(tokenizer.get_vocab().items())
    else:
        rules = backend.to_str()
        # What stands before is padding and truncation, which any call may set anew.
        rules = rules[rules.index('"added_tokens"') :]
    special = sorted(tokenizer.special_tokens_map.items()), tokenizer.pad_token_id, tokenizer.padding_side
    decoding = getattr(tokenizer, "clean_up_tokenization_spaces", None)
    return fingerprint(type(tokenizer).__name__, rules, special, tokenizer.chat_template, decoding)


def settings_fingerprint(model: Any) -> str:
    """Return 16 hexadecimal digits of a model's configuration and of how it generates."""
    settings = [_settings(part.to_dict()) for part in (model.config, getattr(model, "generation_config", None)) if part]
    return fingerprint(json.dumps(settings, sort_keys=True, default=str))


def _settings(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if not str(name).startswith("_") and name not in NO_SETTINGS}
        return {str(name): _settings(part) for name, part in kept.items()}
    return value
