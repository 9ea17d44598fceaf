"""Train what stands beside SemPA in the notebooks and write down what it did; `notebooks/run.py` calls this second."""

from first import SEMPA, train_and_score

# Contrastive learning is the paper's baseline: nothing holds it to the base.
OTHERS = {
    "one word": {"objective": "one_word"},
    "listwise SemPA": {"objective": "listwise"},
    "contrastive": {"objective": "contrastive", "kl_weight": 0.0},
    "SemPA without KL": {"kl_weight": 0.0},
}

if __name__ == "__main__":
    train_and_score(SEMPA | OTHERS, "others", finished=True)
