"""What a question speaks of, in order."""

import pytest

from vega3d.train.phrases import MOST, phrases


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        (
            "If I am standing by the dark green sofa and facing the desk, is the lamp to my left?",
            ("dark green sofa", "desk", "lamp"),
        ),
        ("Is there a lamp? There is an armchair.", ("lamp", "armchair")),
        ("How many chairs are in this room?", ()),
        ("Go forward until the door. Then the", ("door",)),
        ("The x-ray the", ("x-ray",)),
        ("Is the table of the caf\u00e9 green?", ("table", "caf\u00e9 green")),
        ("Go to the tv 2. Turn", ("tv",)),
        ("", ()),
    ],
)
def test_phrases_begin_after_an_article_and_end_at_a_small_word(
    text: str, spoken: tuple[str, ...]
) -> None:
    assert phrases(text) == spoken


def test_no_more_phrases_are_kept_than_there_is_room_for() -> None:
    assert phrases(" and ".join(f"the c{n}" for n in range(20))) == tuple(
        f"c{n}" for n in range(MOST)
    )
