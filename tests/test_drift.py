"""Drift: what the kit calls, overrides and patches in other libraries is there; a new pin says here what broke."""

import importlib
import inspect

import pytest

# (what is called or overridden, parameters that it must have)
CALLED = {
    "trl.DPOTrainer.__init__": "model args train_dataset processing_class peft_config callbacks",
    "trl.DPOConfig.__init__": "output_dir beta loss_type learning_rate warmup_steps optim max_length save_steps",
    "transformers.Trainer.train": "resume_from_checkpoint",
    "transformers.Trainer.remove_callback": "callback",
    "transformers.TrainerCallback.on_save": "args state control kwargs",
    "transformers.TrainerCallback.on_log": "args state control kwargs",
    "transformers.AutoModelForCausalLM.from_pretrained": "kwargs",
    "transformers.PreTrainedConfig.get_config_dict": "pretrained_model_name_or_path",
    "transformers.PreTrainedConfig.get_text_config": "decoder",
    "transformers.PreTrainedTokenizerFast.apply_chat_template": "conversation chat_template add_generation_prompt",
    "peft.PeftModel.from_pretrained": "model model_id",
    "peft.PeftModel.load_adapter": "model_id adapter_name",
    "peft.PeftModel.save_pretrained": "save_directory selected_adapters save_embedding_layers",
    "peft.PeftModel.get_base_model": "",
    "peft.PeftModel.disable_adapter": "",
    "peft.get_peft_model_state_dict": "model save_embedding_layers",
    "lm_eval.models.huggingface.HFLM.__init__": "pretrained tokenizer batch_size max_length",
    "lm_eval.models.huggingface.HFLM._encode_pair": "context continuation",
    "lm_eval.tasks.TaskManager.__init__": "include_path include_defaults",
    "mteb.evaluate": "model tasks cache co2_tracker show_progress_bar",
    "sentence_transformers.SentenceTransformer.encode": "",
    "sentence_transformers.util.is_sentence_transformer_model": "model_name_or_path",
}
# (ours, theirs, what of theirs it overrides with the same parameters)
TRAINER = "sempa_utils.training.trainer.SemanticTrainer", "trl.DPOTrainer"
HARNESS = "sempa_utils.evaluation.generation.harness_model.HarnessModel", "lm_eval.models.huggingface.HFLM"
OVERRIDDEN = [
    *((*TRAINER, method) for method in ("_compute_loss", "_prepare_inputs", "_prepare_dataset")),
    *((*HARNESS, method) for method in ("_loglikelihood_tokens", "generate_until")),
]
PATCHED = ["lm_eval.api.task.tqdm", "lm_eval.api.model.tqdm", "lm_eval.models.huggingface.tqdm"]


def find(name: str):
    """Return what a dotted name stands for, module or a part of one."""
    first, *parts = name.split(".")
    found = importlib.import_module(first)
    for place, part in enumerate(parts, start=1):
        if not hasattr(found, part):
            importlib.import_module(".".join([first, *parts[:place]]))
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_takes_what_it_is_given(name):
    pytest.importorskip(name.split(".")[0])
    missing = set(CALLED[name].split()) - set(inspect.signature(find(name)).parameters)
    assert not missing, f"{name} takes no {', '.join(sorted(missing))} any more"


@pytest.mark.parametrize(("ours", "theirs", "method"), OVERRIDDEN)
def test_what_is_overridden_is_there_and_ours_can_be_called_as_theirs(ours, theirs, method):
    own, other = (inspect.signature(getattr(find(name), method)).parameters for name in (ours, theirs))
    star = any(one.kind is one.VAR_POSITIONAL for one in own.values())
    assert star or list(other) == list(own) or len(other) == len(own), f"{theirs}.{method} takes {list(other)} now"


@pytest.mark.parametrize("name", PATCHED)
def test_what_is_patched_is_there(name):
    assert callable(find(name)), f"{name} is gone: nothing would be patched"


def test_peft_marks_the_modules_that_it_puts_in():
    """By this attribute the kit tells an adapter's layers from the base's, whatever kind it is of."""
    from peft.tuners.lora import Linear

    assert hasattr(Linear, "adapter_layer_names") and hasattr(Linear, "disable_adapters")
