"""To and from sentence-transformers: a method as a folder that it loads, and its models as rows of our tables.

An exported folder holds no code. Preparing the sentence and filling the template is written as the tokenizer's chat
template, since sentence-transformers (6.0 and later) imports no class from outside itself without being told to trust
it, and its `prompts` have no place for words behind a sentence. So nothing of this kit is needed to load one.
"""

import copy
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from sempa_utils import __version__, checks, models
from sempa_utils.checks import InputError, installing, require_space, write_whole
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, fill, prepare_sentence
from sempa_utils.embedding import Embedder
from sempa_utils.models import identity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EXPORTABLE = ("prompteol", "pretended_cot")  # the last token's state after the final norm, and nothing else
ADAPTER_FOLDER = "adapter"

# `templates.prepare_sentence` and `templates.fill` in Jinja. A prompt arrives as a message before the sentence.
CHAT_TEMPLATE = """\
{% set text = (messages | map(attribute='content') | join).split() | join(' ') %}
{% if text[-1:] not in ['.', '?', '"', "'"] %}{% set text = text ~ '.' %}{% endif %}
{% set text = text | replace('"', "'") %}
{% if text[-1:] == '?' %}{% set text = text[:-1] ~ '.' %}{% endif %}
{{ BEFORE ~ text ~ AFTER }}"""

# Below it a vector is another one; in half precision merging rounds every weight once more.
LOWEST_COSINE = {torch.float32: 0.9999, torch.bfloat16: 0.99, torch.float16: 0.99}
PROBES = ("", 'Is it "so"?', "A kettle, ça alors: 水 🙂", "0")  # sentences whose tokens an export is checked on

CARD = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---

# {name}, {method}

Sentence embeddings from a language model. The sentence is put into `{template}`;
the vector is the last token's state after the final norm. The template is in this folder: give bare sentences.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder")  # 6.2 or later; no code from elsewhere is run
vectors = model.encode(["The shop opens at nine.", "You can go in from nine o'clock."])
model.similarity(vectors, vectors)  # cosines
```

| | |
|---|---|
| base model | {name}, weights {fingerprint}, {precision} |
| adapter | {adapter} |
| method | {method} |
| longest input | {max_length} tokens, template included; a longer sentence is cut and closed with a full stop |
| written by | SemPA kit {version} |

The base model's licence holds for these weights too.
"""


def export(language_model, folder: Path | str, *, method: str = "prompteol", merge: bool = True) -> Path:
    """Write a folder that `SentenceTransformer(folder)` loads, whole or not at all, and return its path.

    Its `encode` gives the vectors of `Embedder(language_model, method)`, but for a sentence of more tokens than
    `max_length`: that is cut at a token and closed with a full stop. An adapter is merged into the weights, which in
    bfloat16 rounds, or kept beside them (`merge=False`); such a folder is copied as it is, since sentence-transformers'
    own `save_pretrained` would write the adapter alone. What was written is read back and compared before it takes its
    place. Raises `InputError` for a method that is more than a template and its last token, for NF4 weights, for a
    tokenizer that reads a chat differently from a text, for an adapter that does not survive, and for a folder with
    other things in it.
    """
    folder = Path(folder)
    if method not in EXPORTABLE:
        raise InputError(f"{method!r} cannot be exported, only {' and '.join(EXPORTABLE)}. Choose one of these.")
    if language_model.precision == "nf4":
        raise InputError(
            f"{language_model.name}: NF4 weights are not exported, since merging an adapter into them would round it. "
            "Load the base in float32 or bfloat16, with the same adapter, and export that."
        )
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()) and not (folder / "modules.json").is_file():
        raise InputError(f"{folder}: there is something else here already. Name a new folder.")
    max_length = Embedder(language_model, method).max_length
    tokenizer = _tokenizer(language_model, method, max_length)
    decoder, adapted = _decoder(language_model, merge), hasattr(language_model.model, "peft_config")
    size = sum(weight.nbytes for weight in decoder.state_dict().values())
    require_space(folder.parent, size + 50_000_000, purpose="the exported model")
    with write_whole(folder) as draft:
        decoder.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        if adapted and not merge:
            _save_adapter(language_model, draft / ADAPTER_FOLDER)
        for name, content in _settings(language_model.config.hidden_size, adapted and not merge).items():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
        where = "merged" if merge else f"in {ADAPTER_FOLDER}/"
        saved = "not saved before" if language_model.adapter in (None, models.UNSAVED) else language_model.adapter
        adapter = f"{saved}, {where}" if adapted else "none"
        about = {**vars(language_model), "adapter": adapter, "method": method, "max_length": max_length}
        card = CARD.format(**about, template=EXTRACTION_TEMPLATES[method], version=__version__)
        (draft / "README.md").write_text(card, encoding="utf8")
        _read_back(language_model, draft, method=method, beside=adapted and not merge)
    return folder


def _tokenizer(language_model, method: str, max_length: int):
    """Return the tokenizer with the method as its chat template, checked against the plain way."""
    template, tokenizer = EXTRACTION_TEMPLATES[method], copy.deepcopy(language_model.tokenizer)
    before, after = template.split("{x}")
    # A chat gets no special tokens by itself, so the begin token stands in the template.
    before = "".join(tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"])) + before
    tokenizer.chat_template = CHAT_TEMPLATE.replace("BEFORE", json.dumps(before)).replace("AFTER", json.dumps(after))
    # Padding behind the sentence: a causal model never sees it, and positions count from the first token.
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.model_max_length = max_length
    for sentence in PROBES:
        chat = tokenizer.apply_chat_template([{"role": "user", "content": sentence}])["input_ids"]
        if chat != tokenizer(fill(template, prepare_sentence(sentence)))["input_ids"]:
            raise InputError(
                f"{language_model.name}: the tokenizer splits {sentence!r} otherwise in a chat, so the exported model "
                "would give other vectors. Use the Embedder for this model."
            )
    return tokenizer


def _decoder(language_model, merge: bool):
    """Return the decoder that is written: of a copy with the adapter merged by PEFT's own rule, or the base's alone."""
    model = language_model.model
    if not merge or not hasattr(model, "peft_config"):
        return _bare(language_model.decoder, identity.base_tensors(language_model.decoder))
    try:
        merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError, RuntimeError) as error:  # by kind of adapter
        raise InputError(
            f"{language_model.name}: PEFT cannot merge this adapter: {' '.join(str(error).split())[:200]} "
            "Export it beside the base (--beside), or use the Embedder."
        ) from error
    return merged.get_decoder()


def _bare(decoder, weights: dict[str, torch.Tensor]):
    """Return a decoder of the same kind without an adapter that holds `weights` themselves, not a copy."""
    with torch.device("meta"):
        bare = type(decoder)(copy.deepcopy(decoder.config))
    bare.load_state_dict(weights, assign=True)
    return bare


@torch.no_grad()
def _read_back(language_model, folder: Path, *, method: str, beside: bool) -> None:
    """Raise an `InputError` unless what was written gives the Embedder's vectors when transformers loads it."""
    how: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
    how |= {"adapter_kwargs": {"subfolder": ADAPTER_FOLDER}} if beside else {}
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModel.from_pretrained(folder, dtype=language_model.decoder.dtype, **how).eval()
    expected = torch.as_tensor(Embedder(language_model, method).encode(list(PROBES)))
    for sentence, vector in zip(PROBES, expected):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": sentence}])["input_ids"]
        state = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].float()
        cosine = torch.cosine_similarity(state, vector, dim=0).item()
        if not cosine > LOWEST_COSINE[model.dtype]:
            raise InputError(
                f"{language_model.name}: read back, the exported model gives another vector (cosine {cosine:.3f}), so "
                "nothing was written: this kind of adapter does not survive "
                f"{'being loaded beside its base; leave out --beside' if beside else 'being merged; use the Embedder'}."
            )


def _save_adapter(language_model, folder: Path) -> None:
    """Save the adapter in PEFT's format, for the decoder alone: names begin at it, not at the whole model."""
    from peft import get_peft_model_state_dict

    model, decoder = language_model.model, language_model.decoder
    inside = next(name for name, module in model.get_base_model().named_modules() if module is decoder) + "."
    config = copy.deepcopy(model.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = language_model.name, True
    if not isinstance(config.target_modules, str):
        config.target_modules = {name.removeprefix(inside) for name in config.target_modules}
    config.save_pretrained(folder)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    renamed = {name.replace(f".{inside}", ".", 1): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(renamed, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _settings(width: int, adapter_beside: bool) -> dict[str, dict | list]:
    """Return sentence-transformers' own files, by name."""
    state = {"method": "forward", "method_output_name": "last_hidden_state"}
    transformer = {
        "transformer_task": "feature-extraction",
        # "message" sends each sentence through the chat template.
        "modality_config": {"text": state, "message": {**state, "format": "flat"}},
        "module_output_name": "token_embeddings",
    }
    if adapter_beside:
        # In a folder of its own: an adapter_config.json at the top would send the loader to the hub for the base.
        transformer["model_kwargs"] = {"adapter_kwargs": {"subfolder": ADAPTER_FOLDER}}
    home = "sentence_transformers.base.modules.transformer.Transformer"
    pooling = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    return {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": home},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": pooling},
        ],
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "similarity_fn_name": "cosine",
            "prompts": {},
            "default_prompt_name": None,
            "requirements": {"sentence-transformers": ">=6.2"},
        },
        "sentence_bert_config.json": transformer,
        "1_Pooling/config.json": {"embedding_dimension": width, "pooling_mode": "lasttoken", "include_prompt": True},
    }


@dataclass(frozen=True)
class Baseline:
    """A SentenceTransformer model, to be scored beside our own methods."""

    name: str  # a hub id or a directory's name
    model: "SentenceTransformer"
    fingerprint: str

    def encode(self, sentences: list[str], batch_size: int = 32, *, show_progress_bar: bool = False) -> np.ndarray:
        """Return one vector per sentence: (n, width), float32."""
        vectors = self.model.encode(sentences, batch_size=batch_size, show_progress_bar=show_progress_bar)
        return np.asarray(vectors, dtype=np.float32)

    def describe(self) -> dict:
        """Return what a record keeps of the model, under the names that `LanguageModel.describe` uses."""
        return {
            "name": self.name,
            "precision": str(self.model.dtype).removeprefix("torch."),
            "fingerprint": self.fingerprint,
            "adapter": None,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }

    def identity(self) -> dict[str, str]:
        """Return all that a vector depends on beside its sentence: a part of `models.figure_key`."""
        version = importlib.metadata.version("sentence-transformers")
        return {k: str(v) for k, v in self.describe().items()} | {"device": str(self.model.device), "version": version}


def load_baseline(name: Path | str) -> Baseline:
    """Load a SentenceTransformer model from a directory or by its hub id.

    Raises `InputError` if sentence-transformers is not installed, or for what it cannot load as a model of its own: a
    plain language model is refused, because nothing in it says how its states become a vector.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.util import is_sentence_transformer_model
    except ImportError as error:
        install = installing("sentence-transformers", "evaluation")
        raise InputError(f"sentence-transformers is not installed. Run: {install}") from error
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else str(name)
    model = None
    try:
        if is_sentence_transformer_model(source):
            model = SentenceTransformer(source, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except Exception as error:  # a model may fail in many ways: files, hub, versions, code of its own
        raise InputError(
            f"{name}: not loadable as a SentenceTransformer model: {' '.join(str(error).split())[:300]} Name a folder "
            "that sentence-transformers saved (safetensors, no code of its own), or a hub id within reach."
        ) from error
    if model is None:
        raise InputError(f"{name}: no modules.json. Name a folder or hub id of a SentenceTransformer model.")
    return Baseline(folder.resolve().name if folder.is_dir() else source, model, _fingerprint(model))


def _fingerprint(model) -> str:
    """Return 16 hexadecimal digits of all weights, and of the settings that a vector depends on beside them."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    template = getattr(model.tokenizer, "chat_template", None)
    return checks.fingerprint(digest.hexdigest(), model, model.max_seq_length, model.prompts, template)
