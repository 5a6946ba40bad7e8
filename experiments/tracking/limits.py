"""What names and texts does MLflow take?"""

import hashlib
import re

# MLflow's limits (mlflow/utils/validation.py): characters, and entries of one log_batch.
NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000
DATASET_LENGTH, DIGEST_LENGTH = 500, 36
METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH = 800, 100, 100  # 1000 together


def clean_name(name: str) -> str:
    """Turn any text into a name that MLflow accepts for a metric, a parameter or a tag."""
    parts = re.sub(r"[^\w.\- :/]", "_", name).split("/")
    clean = "/".join(part for part in parts if part not in ("", ".", "..")) or "_"
    if len(clean) <= NAME_LENGTH:
        return clean
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
    return f"{clean[: NAME_LENGTH - 9]}-{digest}"


def cut(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters, the cut marked."""
    mark = " ... (cut)"  # the full value stays in the run's config.yaml
    return text if len(text) <= length else text[: length - len(mark)] + mark
