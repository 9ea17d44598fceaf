"""Loading: a model with its tokenizer, by a packaged name, from a local directory, or by its hub id."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from sempa_utils.checks import InputError, first_line, pick, read_table
from sempa_utils.models import adapters, identity
from sempa_utils.models.language_model import LanguageModel
from sempa_utils.models.packaged import PACKAGED, PACKAGED_MODELS, fetch_packaged, quiet_load_reports
from sempa_utils.models.precision import PRECISIONS, check_nf4, compute_dtype, keep_nf4_exact, nf4_config
from sempa_utils.models.tokenizer import prepare

HUB_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]  # weights, settings, tokenizers
HUB_LEFT_OUT = ["consolidated*", "*/*"]  # the same weights in the form of another library
GIT_LFS = b"version https://git-lfs"  # how a file begins that holds but the address of its content


def load(
    name: str = PACKAGED, precision: str = "float32", *, adapter: str | Path | None = None, device: str | None = None
) -> LanguageModel:
    """Load a base model, by default the packaged 135M one, and an adapter on top for good if one is named.

    `name` is "packaged", a local directory with safetensors weights, or a hub id. `precision` is
    float32, bfloat16 or nf4 (4-bit NormalFloat with double quantisation). `device` is by default
    the GPU if there is one. Raises `InputError` for an unknown precision, a directory without
    weights, an unreachable hub, NF4 where bitsandbytes cannot work, or an adapter of another base.
    """
    pick(precision, PRECISIONS, what="precision")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source = fetch(name)
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    if precision == "nf4":
        check_nf4(device)
        # What is not quantised (embedding, norms, head) is held in the type that is computed in.
        options |= {"dtype": compute_dtype(device), "device_map": {"": device}}
        options |= {"quantization_config": nf4_config(device)}
    else:
        options |= {"dtype": getattr(torch, precision)}
    quiet_load_reports()
    try:
        _refuse_foreign_code(source)
        model, told = AutoModelForCausalLM.from_pretrained(source, **options, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # loading fails in many ways: files, hub, versions, the tokenizer's own library
        raise InputError(
            f"{name}: cannot be loaded as a model: {first_line(error)} Name a directory with config.json, "
            "tokenizer and *.safetensors, a hub id that this machine can reach, or 'packaged'."
        ) from error
    if missing := sorted(told["missing_keys"]):  # in their place stand random numbers
        raise InputError(
            f"{name}: {len(missing)} weights of the model are in none of its files, {missing[0]} among them. "
            "Fetch it again, or save it with save_pretrained."
        )
    packed = getattr(model, "hf_quantizer", None)
    same = packed and getattr(packed.quantization_config, "bnb_4bit_quant_type", None) == precision
    if packed is not None and not same:
        kind = packed.quantization_config.quant_method.value
        raise InputError(
            f"{name}: its weights are packed already ({kind}), so they are not in {precision}. Name the checkpoint "
            "that they were made of, or say nf4 where they are in bitsandbytes' NF4."
        )
    if precision == "nf4":
        keep_nf4_exact(model)
    else:
        model = model.to(device)
    language_model = wrap(model.eval(), tokenizer, name=plain_name(name), precision=precision)
    if precision == "nf4":  # what lies in memory is rounded already
        fingerprint = identity.weights_fingerprint(model, weight_files(source))
        language_model = replace(language_model, fingerprint=fingerprint)
    return adapters._put_on(language_model, adapter) if adapter else language_model


def _refuse_foreign_code(source: str) -> None:
    """Raise an `InputError` for a configuration that names code on the hub, which transformers would fetch and run.

    `trust_remote_code=False` holds back a model's own classes, not the kernels that its settings may name.
    """
    left = [PreTrainedConfig.get_config_dict(source)[0]]
    while left:
        settings = left.pop()
        left += [value for value in settings.values() if isinstance(value, dict)]
        for key, value in settings.items():
            if key.endswith("_implementation") and "/" in str(value):
                raise InputError(
                    f"{source}: config.json names code of others ({key}: {str(value)[:80]}), which is not run here. "
                    f"Take {key} out."
                )


def plain_name(name: str) -> str:
    """Return how records and adapters name a model: its hub id, or a directory's own name, never a path."""
    if name in PACKAGED_MODELS:
        return PACKAGED_MODELS[name].name
    return Path(name).expanduser().name if Path(name).expanduser().is_dir() else name


def wrap(model: Any, tokenizer: Any, *, name: str, precision: str = "float32") -> LanguageModel:
    """Make a `LanguageModel` of a loaded model and tokenizer, with padding set for batches."""
    prepare(tokenizer, len(model.get_input_embeddings().weight))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    fingerprint, digest = identity.weights_fingerprint(model), identity.base_digest(model)
    return LanguageModel(name, precision, model, tokenizer, fingerprint, digest)


def fetch(name: str = PACKAGED) -> str:
    """Return what transformers loads for `name`: a directory with weights, looked through, or a hub id as it is.

    Raises `InputError` for a directory that is not there, or in which something is missing, broken or in the way.
    """
    if name in PACKAGED_MODELS:
        return str(fetch_packaged(name))
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise InputError(f"{name}: no such directory. Name an existing one, a hub id, or 'packaged'.")
        return name
    _check_folder(folder)
    return str(folder)


def _check_folder(folder: Path) -> None:
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            if file.read(len(GIT_LFS)) == GIT_LFS:
                raise InputError(f"{path}: a pointer of Git LFS in the file's place. Run `git lfs pull` in its folder.")
    files = weight_files(str(folder))
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    missing += [] if files else ["*.safetensors of its own"]
    if missing:
        raise InputError(
            f"{folder}: a model directory without {' and '.join(missing)}. "
            "Save the model there with save_pretrained (safetensors; pickled weights are not read)."
        )
    if (folder / adapters.CONFIG).is_file():
        raise InputError(
            f"{folder / adapters.CONFIG}: an adapter beside a model's own weights, which transformers would put on "
            "unasked. Move the adapter into a folder of its own."
        )
    for path in files:
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: not a readable safetensors file ({error}), such as a broken download leaves. Fetch it again."
            ) from error


def download(name: str = PACKAGED) -> Path:
    """Fetch all that `load` needs of a model and return its directory; of a hub id no pickled weights, no code.

    Raises `InputError` for a model that cannot be fetched.
    """
    source = fetch(name)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=HUB_PATTERNS, ignore_patterns=HUB_LEFT_OUT))
    except Exception as error:  # the hub fails in many ways: no network, a gate, no such name
        raise InputError(
            f"{name}: cannot be fetched from the hub: {first_line(error)} Check the name and the connection; a gated "
            "model wants its licence accepted and a login (hf auth login)."
        ) from error


def weight_files(source: str) -> list[Path]:
    """Return the files that transformers reads the weights of a directory from, or of a hub id loaded before.

    Other safetensors files that lie beside them (an adapter, another library's copy) are not among them.
    """
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        patterns = ["*.safetensors", "*.safetensors.index.json"]
        folder = Path(snapshot_download(source, allow_patterns=patterns, local_files_only=True))
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return [whole] if whole.is_file() else []
    names = read_table(index).get("weight_map")
    names = list(names.values()) if isinstance(names, dict) else [None]
    strange = [name for name in names if not isinstance(name, str) or name != Path(name).name or not name]
    if strange or not names:
        what = f"{strange[0]!r} is no file's name" if strange else "it names no file"
        raise InputError(f"{index}: not a readable index of weights ({what}). Fetch it again.")
    return [folder / name for name in sorted(set(names))]


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
