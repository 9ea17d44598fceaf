"""Adapters: on a base for a `with` block and off again, saved, shipped; and which base one was made for."""

import contextlib
import copy
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from sempa_utils.checks import InputError, check_name, file_sha256, read_table, require_space, write_whole
from sempa_utils.models import identity
from sempa_utils.models.language_model import LanguageModel

FINISHED = Path(__file__).parents[1] / "adapters"  # trained by this kit, a folder each, with a model card
FORMER_NAMES = {"smollm2-135m-nli": "smollm2-135m-contrastive"}  # of finished adapters, which are taken as well
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # as PEFT names them
ADAPTER_NOTE = "sempa.json"  # what an adapter of this kit knows about its base


@contextlib.contextmanager
def adapted(base: LanguageModel, adapter: Path | str | None) -> "Generator[LanguageModel, None, None]":
    """Give the base with an adapter on it, never merged, for a `with` block; the bare base for None.

    `adapter` is a folder, or a finished adapter's name. The weights are shared, so within the block the base carries
    it too; `.model.disable_adapter()` switches it off. Raises `InputError` for a folder without an adapter or with one
    that was made for another base, that PEFT cannot put on, or that wrote into the base's weights; and where there is
    an adapter already.
    """
    if adapter is None:
        yield base
        return
    with given_back(base):
        yield _put_on(base, adapter)


@contextlib.contextmanager
def given_back(base: LanguageModel) -> Generator[None, None, None]:
    """Give the model back after the block as it was: weights, modules, hooks, switches, settings.

    Nothing is copied. Raises `InputError` where something has written into the weights all the same.
    """
    model = identity.base_model(base.model)
    before, state = identity.base_digest(model), _State(model)
    try:
        yield
    finally:
        state.restore()
    if identity.base_digest(model) != before:
        raise InputError(f"{base.name}: its own weights are not what they were before. Load the model anew.")


class _State:
    """A model as it is now: what each module holds, each tensor's values, the settings."""

    def __init__(self, model: torch.nn.Module):
        # Dictionaries (of children, of hooks) are filled again and not replaced: whoever set a hook knows its own.
        self.modules = [
            (
                part,
                dict(vars(part)),
                {name: dict(value) for name, value in vars(part).items() if isinstance(value, dict)},
            )
            for part in model.modules()
        ]
        self.tensors = [
            (tensor, tensor.data, tensor.requires_grad) for tensor in (*model.parameters(), *model.buffers())
        ]
        settings = [getattr(model, name, None) for name in ("config", "generation_config")]
        parts = [values for part in settings if part is not None for values in _with_parts(part)]
        self.settings = [
            (values, {name: copy.deepcopy(value) for name, value in vars(values).items() if not _is_config(value)})
            for values in parts
        ]

    def restore(self) -> None:
        for part, attributes, dictionaries in self.modules:
            vars(part).clear()
            vars(part).update(attributes)
            for name, content in dictionaries.items():
                attributes[name].clear()
                attributes[name].update(content)
        for tensor, data, requires_grad in self.tensors:
            if (tensor.data_ptr(), tensor.dtype) != (data.data_ptr(), data.dtype):
                tensor.data = data
            tensor.requires_grad_(requires_grad)
        for settings, values in self.settings:
            changed = {name: value for name, value in values.items() if vars(settings).get(name) != value}
            vars(settings).update(changed)


def _with_parts(settings: Any) -> list[Any]:
    """Return a configuration and those of the parts of its model."""
    parts = (part for value in vars(settings).values() if _is_config(value) for part in _with_parts(value))
    return [settings, *parts]


def _is_config(value: Any) -> bool:
    return isinstance(value, PreTrainedConfig)


def _put_on(base: LanguageModel, adapter: Path | str) -> LanguageModel:
    """Return the model with the adapter on it. Nothing takes it off but `given_back` around the call."""
    from peft import PeftModel

    folder, model = adapter_folder(adapter), identity.base_model(base.model)
    if identity.adapter_layers(model):
        raise InputError(
            f"{folder}: there is an adapter on this model already. Leave its `with` block first, or load the base anew."
        )
    refusal = f"{folder}: an adapter for {base_of_adapter(folder)}, another base model than {base.name}"
    remedy = "Load it with its own base, or train one for this base."
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS}: no such file. Name a folder that PEFT's save_pretrained wrote.")
    trained_on = _read(folder / ADAPTER_NOTE).get("base_fingerprint", base.fingerprint)
    if trained_on != base.fingerprint:
        raise InputError(
            f"{refusal}: trained on the weights {trained_on}, and these are {base.fingerprint}. {remedy} "
            f"(Where an older kit named the same weights so, delete {ADAPTER_NOTE}.)"
        )
    settings = _read(folder / CONFIG)
    if settings.get("megatron_config"):
        raise InputError(f"{folder / CONFIG}: megatron_config, by which PEFT imports any module. Take it out.")
    if isinstance(settings.get("init_lora_weights"), str):
        # PiSSA, OLoRA and their like take a part out of the base's weights: it is taken out of a copy.
        for weight in model.parameters():
            weight.data = weight.data.clone()
    try:
        with warnings.catch_warnings(record=True) as warned, _for_the_whole(folder, model) as source:
            warnings.simplefilter("always")
            wrapped: Any = PeftModel.from_pretrained(model, str(source))
            loaded = wrapped.load_adapter(str(source), "default")  # once more: it alone tells what had no place
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS}: not a readable safetensors file ({error}). Fetch it again.") from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # by kind of adapter, of misfit, of what its settings say
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{refusal}, or PEFT cannot put it on: {reason} {remedy}") from error
    if not identity.adapter_layers(model):
        kind = wrapped.peft_config["default"].peft_type.value
        raise InputError(
            f"{folder}: an adapter of the kind {kind}, which stands beside the model's layers and not in them, and "
            "would take no part in what is read here. Use an adapter of weights, such as LoRA."
        )
    missing = [str(warning.message)[:200] for warning in warned if "missing adapter keys" in str(warning.message)]
    if missing or loaded.unexpected_keys:
        reason = missing[0] if missing else f"{loaded.unexpected_keys[0]} has no place in it."
        raise InputError(f"{refusal}: {reason} {remedy}")
    wrapped.eval()
    model.adapter_fingerprint = adapter_fingerprint(folder)
    return replace(base, model=wrapped)


@contextlib.contextmanager
def _for_the_whole(folder: Path, model: Any) -> Generator[Path, None, None]:
    """Give the folder of an adapter; where it was trained on the decoder alone, a copy that names the whole model.

    Sentence-transformers and the kit's own export beside the base write names that begin at the decoder.
    """
    decoder, before = identity.decoder_of(model), "base_model.model."
    inside = next(name for name, part in model.named_modules() if part is decoder)
    first = {name.removeprefix(before).split(".")[0] for name in _names(folder / WEIGHTS)}
    of_decoder = first <= {name for name, _ in decoder.named_children()} - {name for name, _ in model.named_children()}
    if not (inside and first and of_decoder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        copied, config = Path(place), _read(folder / CONFIG) | {"task_type": "CAUSAL_LM"}
        weights = load_file(folder / WEIGHTS).items()
        renamed = {f"{before}{inside}.{name.removeprefix(before)}": weight for name, weight in weights}
        save_file(renamed, copied / WEIGHTS, metadata={"format": "pt"})
        (copied / CONFIG).write_text(json.dumps(config), encoding="utf8")
        yield copied


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def check_adapter(base: LanguageModel, adapter: Path | str) -> None:
    """Raise an `InputError` as `adapted` does, unless the adapter goes onto this base."""
    with adapted(base, adapter):
        pass


def save_adapter(language_model: LanguageModel, folder: Path | str) -> Path:
    """Save the adapter in PEFT's format, whole or not at all, with a note of its base model."""
    folder, model = Path(folder), language_model.model
    model.peft_config["default"].base_model_name_or_path = language_model.name
    size = sum(tensor.numel() * 4 for tensor in identity.adapter_tensors(model).values())
    require_space(folder.parent, 2 * size + 1_000_000, purpose="the adapter")
    with write_whole(folder) as draft:
        # Without the last argument PEFT asks the hub whether the vocabulary was changed; ours never is.
        model.save_pretrained(draft, selected_adapters=["default"], save_embedding_layers=False)
        (draft / "README.md").unlink(missing_ok=True)  # PEFT's blank model card
        note = {"base": language_model.name, "base_fingerprint": language_model.fingerprint}
        (draft / ADAPTER_NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf8")
    return folder


def combine_adapters(base: LanguageModel, shares: Mapping[Path, float], *, folder: Path | str) -> Path:
    """Save the adapter whose change of the weights is the sum of others', each times its share; return its folder.

    Exact: nothing is cut off, the ranks add up. Raises `InputError` for an adapter of another base or of another kind
    than plain LoRA: with magnitudes (DoRA), a scale by the root of the rank, biases, or weights of its own beside it.
    """
    folders = {f"part {place}": adapter_folder(path) for place, path in enumerate(shares)}
    for path in folders.values():
        check_adapter(base, path)
        # PEFT scales the sum as it does the first of them, and takes no magnitude or bias into it.
        other = [name for name in ("use_rslora", "use_dora", "lora_bias") if _read(path / CONFIG).get(name)]
        other += [name for name in _names(path / WEIGHTS) if not re.search(r"\.lora_[AB]\.weight$", name)]
        if other:
            raise InputError(
                f"{path}: not of LoRA's weights alone ({other[0]}), so it has no sum. Name a LoRA adapter."
            )
    from peft import PeftModel

    with given_back(base):
        first, *others = folders
        wrapped: Any = PeftModel.from_pretrained(base.model, str(folders[first]), adapter_name=first)
        for name in others:
            wrapped.load_adapter(str(folders[name]), name)
        wrapped.add_weighted_adapter(list(folders), list(shares.values()), "default", combination_type="cat")
        return save_adapter(replace(base, model=wrapped), folder)


def adapter_fingerprint(folder: Path | str) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of an adapter's weights."""
    return file_sha256(adapter_folder(folder) / WEIGHTS)[:16]


def finished_adapters(base: LanguageModel) -> dict[str, Path]:
    """Return the adapters that come with the kit for this base: {name: folder}; a name serves as a folder does."""
    notes = sorted(FINISHED.glob(f"*/{ADAPTER_NOTE}"))
    return {note.parent.name: note.parent for note in notes if _read(note)["base_fingerprint"] == base.fingerprint}


def ship_adapter(folder: Path | str, name: str) -> Path:
    """Put a trained adapter among the finished ones under a name, its weights rounded to bfloat16; return its folder.

    A model card (README.md) that is there stays. Raises `InputError` for a folder without an adapter of this kit.
    """
    source, target = Path(folder), FINISHED / check_name(name, what="adapter")
    base_of_adapter(source)
    if not (source / ADAPTER_NOTE).is_file():
        raise InputError(f"{source}: no {ADAPTER_NOTE}, so its base is not known for sure. Name one of this kit's.")
    weights = {key: value.to(torch.bfloat16) for key, value in load_file(source / WEIGHTS).items()}
    card = target / "README.md"
    text = card.read_text(encoding="utf8") if card.is_file() else None
    with write_whole(target) as draft:
        draft.mkdir()
        for note in (CONFIG, ADAPTER_NOTE):
            shutil.copy(source / note, draft / note)
        save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
        if text is not None:
            (draft / card.name).write_text(text, encoding="utf8")
    return target


def adapter_folder(name: Path | str) -> Path:
    """Return the folder that a finished adapter's name, or a former one, stands for, or `name` as a path."""
    finished = FINISHED / FORMER_NAMES.get(str(name), str(name))
    return finished if str(name) and finished.parent == FINISHED and finished.is_dir() else Path(name)


def base_of_adapter(folder: Path | str) -> str | None:
    """Return the name of the base that an adapter was made for, as it was saved."""
    path = adapter_folder(folder) / CONFIG
    if not path.is_file():
        raise InputError(
            f"{path}: no such file. Name a folder that PEFT's save_pretrained or this kit's training wrote."
        )
    return _read(path).get("base_model_name_or_path")


def _read(path: Path) -> dict[str, Any]:
    return read_table(path) if path.is_file() else {}
