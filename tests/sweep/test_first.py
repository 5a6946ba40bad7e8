"""The first point of a sweep over groups, which stands on Hydra's command line in the place of the sweep."""

from pathlib import Path

import pytest

from experiments.sweep.first import first_point, restored, told_to_sweeper

WORDS = ["optimizer=adam,adamw", "optimizer.eps=1e-6", "optimizer.lr=0.1,0.2", "model=choice(vgg16_bn,timm)"]


def test_only_swept_groups_are_replaced_by_their_first_options():
    assert first_point(WORDS) == {
        "optimizer=adam,adamw": "optimizer=adam",
        "model=choice(vgg16_bn,timm)": "model=vgg16_bn",
    }


@pytest.mark.parametrize("words", [WORDS, ["seed=0,1", "aug=none"], []])
def test_what_the_sweeper_is_told_brings_the_words_back(words: list[str]):
    first = first_point(words)
    assert restored([first.get(word, word) for word in words], list(first)) == words
    assert all(word in told_to_sweeper(first) for word in first)


def test_groups_of_a_further_folder_count(tmp_path: Path):
    (tmp_path / "loss").mkdir()
    assert first_point(["loss=a,b"]) == {}
    assert first_point(["loss=a,b"], str(tmp_path)) == {"loss=a,b": "loss=a"}
