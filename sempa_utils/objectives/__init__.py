"""The objectives: one Plackett–Luce likelihood, over what the model says or over where it stands.

| objective | an anchor's candidates, the preferred one first | the score of a candidate |
|---|---|---|
| `pairwise` | entailed, contradicted sentence: the paper's DPO | β log π/π_ref of the sentence as a paraphrase |
| `listwise` | entailed ≻ neutral ≻ contradicted, the whole ranking | the same |
| `best_of_n` | as `pairwise`, and other anchors' entailed sentences | the same |
| `one_word` | the batch's entailed and contradicted sentences | β E[log π/π_ref] over a candidate's one-word answers |
| `contrastive` | the same | cosine of the one-word states / τ: no reference, the paper's baseline |

A new objective is a dataclass like these and a line of `OBJECTIVES`: `train`, `plan` and `--help` know it from there.
"""

from sempa_utils.objectives.answers import BestOfN, Listwise, Pairwise
from sempa_utils.objectives.divergence import divergence
from sempa_utils.objectives.objective import Objective, Scores, TokenCounts, Tokens, tokenised
from sempa_utils.objectives.slots import Contrastive, OneWord

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind for kind in (Pairwise, Listwise, BestOfN, OneWord, Contrastive)
}
