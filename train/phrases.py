"""What a text speaks of: the words after each article, in order.

`Facing the dark green sofa, is the lamp to my left?` speaks of `dark green sofa` and `lamp`. A
vector of a whole text says which words it holds, and not which of two sofas the green is; a vector
a phrase does.
"""

import re

MOST = 8
"""Phrases of a text; later ones are left out."""

_ARTICLES = frozenset(("the", "a", "an"))
_BETWEEN = frozenset(
    re.findall(
        r"\w+",
        "and or is are was were am be to on in of from with at by for as if than then between "
        "until that which who what where how it its this there you i me my your can could will "
        "would do does did facing standing sitting measured",
    )
)


def phrases(text: str) -> tuple[str, ...]:
    """Return at most MOST phrases; each ends at an article, small word, number or mark."""
    found: list[list[str]] = []
    inside = False
    for word in re.findall(r"[\w-]+|[^\s\w-]", text.lower()):
        if word in _ARTICLES:
            found.append([])
            inside = True
        elif word in _BETWEEN or word.isdigit() or not word[0].isalnum():
            inside = False
        elif inside:
            found[-1].append(word)
    return tuple(" ".join(words) for words in found if words)[:MOST]
