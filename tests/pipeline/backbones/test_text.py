"""Vectors of texts: counted words, the desk SigLIP's text half, and what is kept."""

from pathlib import Path

import numpy as np
import pytest

from vega3d.pipeline.backbones.text import embed_texts
from vega3d.pipeline.errors import UsageError

TEXTS = ["the red chair", "a desk left of the door", "the red chair"]


def test_words_tell_order_and_need_no_weights() -> None:
    a, b, again = embed_texts("words", ["left of a right", "right of a left", "Left of a RIGHT!"])
    assert np.allclose(a, again)
    assert 0 < a @ b < 0.99
    assert np.isclose(a @ a, 1)


@pytest.mark.slow
def test_the_desk_text_half_is_asked_once_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = embed_texts("desk", TEXTS, tmp_path)
    assert found.shape == (3, 128)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.array_equal(found[0], found[2])
    assert not np.allclose(found[0], found[1])
    import transformers

    monkeypatch.delattr(transformers, "AutoModel")  # nothing is left to be embedded
    assert np.array_equal(embed_texts("desk", TEXTS[:2], tmp_path), found[:2])


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match="cannot be loaded as an encoder of texts"):
        embed_texts(str(tmp_path / "model"), TEXTS, tmp_path)
