"""What the tests share: tiny random models, a small tokenizer made here, and the packaged model."""

import functools
import gc
import os
import signal

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("kit", deadline=None)  # a busy machine is slow, and not wrong
hypothesis.settings.load_profile("kit")

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the hub
# The processes of pytest-xdist share the cores, and what they start does so too.
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // PROCESSES)))
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# They are made deaf to Ctrl-C, and what they start inherits it: a test that sends one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Begin with what takes minutes by itself, so that the other process has the rest beside it."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    """Keep what the imports made out of later collections: every training collects, and would look through it all."""
    gc.collect()
    gc.freeze()


@functools.cache
def trained_tokenizer() -> str:
    """Return a byte-level BPE tokenizer trained on the mini corpus, once, as JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from sempa_utils.data.corpora import MINI_CORPUS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(MINI_CORPUS / "nli.csv")], trainer)
    return tokenizer.to_str()


def tiny_tokenizer():
    """Return a tokenizer of some 600 words, new each time, with a ChatML-like template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(trained_tokenizer())
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return fast


def tiny_model(layers: int = 2, width: int = 32, seed: int = 0, vocabulary: int = 600):
    """Return a random Llama of a few thousand weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,  # random states that differ from each other
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session", autouse=True)
def own_build_folder(tmp_path_factory):
    """A build folder of this process alone: nothing that another run has kept is found, and nothing is left behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMPA_BUILD_DIR", str(tmp_path_factory.mktemp("build")))
        yield


@pytest.fixture
def tiny():
    """A `LanguageModel` with a random tiny Llama, new for each test."""
    from sempa_utils import models

    return models.wrap(tiny_model(), tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="session")
def packaged():
    """The packaged 135M model in float32, loaded once."""
    from sempa_utils import models

    return models.load()


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """No named data directory, an empty cache, no hub: only the packaged sentences are left."""
    monkeypatch.delenv("SEMPA_DATA_DIR", raising=False)
    monkeypatch.setattr("sempa_utils.data.corpora._data_cache", lambda: tmp_path / "no-cache")
    monkeypatch.setattr("sempa_utils.data.corpora.hub_reachable", lambda: False)


@pytest.fixture
def data_directory():
    """The directory that SEMPA_DATA_DIR names; a test that needs it is skipped without."""
    directory = os.environ.get("SEMPA_DATA_DIR")
    if not directory:
        pytest.skip("SEMPA_DATA_DIR names no directory")
    return directory
