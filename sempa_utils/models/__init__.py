"""Where weights come from and what is put on them: loading, precision, adapters, and batches as prefix trees."""

from sempa_utils.models.adapters import (
    ADAPTER_NOTE,
    FINISHED,
    adapted,
    adapter_fingerprint,
    adapter_folder,
    base_of_adapter,
    check_adapter,
    combine_adapters,
    finished_adapters,
    given_back,
    save_adapter,
    ship_adapter,
)
from sempa_utils.models.certificate import Ways, head_logits, ways_of
from sempa_utils.models.experts import hold_routers, left_by_nf4, reached_by
from sempa_utils.models.identity import UNSAVED, base_model, figure_key, weight_shapes
from sempa_utils.models.language_model import LanguageModel
from sempa_utils.models.launch import processes
from sempa_utils.models.loading import HUB_PATTERNS, download, fetch, load, plain_name, read_matrix, wrap
from sempa_utils.models.packaged import PACKAGED, PACKAGED_MODELS, check_sha256, fetch_packaged, is_at_hand
from sempa_utils.models.precision import PRECISIONS, check_nf4, compute_dtype, mixed_precision, nf4_config
from sempa_utils.models.tokenizer import set_padding
