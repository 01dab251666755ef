"""Answers made comparable: the cleaning of SQA3D, matching by containment, letters and numbers."""

import re

_SPELLING = (
    ("letf", "left"),
    ("let", "left"),
    ("tehre", "there"),
    ("rigth", "right"),
    ("rght", "right"),
    ("behine", "behind"),
    ("tv", "TV"),
    ("chai", "chair"),
    ("wasing", "washing"),
    ("waslked", "walked"),
    ("oclock", "o'clock"),
)
_NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)
_WORDS = [*((str(n), word) for n, word in enumerate(_NUMBERS)), ("23", "twenty-three")]
_WORDS.insert(1, ("none", "zero"))  # the script's order: after 0, before 1

_RULES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"[ ]+$", ""),
        (r"^[ ]+", ""),
        (r" {2,}", " "),
        (r"\.[ ]{2,}", ". "),
        (r"[^a-zA-Z0-9,'\s\-:]+", ""),
        *((rf"\b{old}\b", new) for old, new in _SPELLING),
        (r"\bo'[ ]+clock\b", "o'clock"),
        *((rf"\b{old}\b", new) for old, new in _WORDS),
        (r"\b([a-zA-Z]+)([0-9])\b", r"\g<1>"),
        *((rf"\b{article}\b ([a-zA-Z]+)", r"\g<1>") for article in ("a", "an", "the")),
        (r"\bbackwards\b", "backward"),
    )
]


def clean_answer(text: str) -> str:
    """Return an answer as SQA3D compares it: lower case, words for digits, no articles.

    Source: SilongYong/SQA3D, LLM/eval_sqa3d_llm.py (the same table in VEGA-3D's eval_sqa3d.py).
    """
    cleaned = text.lower()
    for pattern, new in _RULES:
        cleaned = pattern.sub(new, cleaned)
    return cleaned


def contains(answer: str, truth: str) -> bool:
    """Say whether one of two texts holds the other, spaces aside: refined exact match.

    An empty text is held by every other, so an empty answer matches nothing here.

    Source: Huang et al., LEO (An Embodied Generalist Agent in 3D World), ICML 2024, EM-R.
    """
    left, right = "".join(answer.split()), "".join(truth.split())
    if not left or not right:
        return left == right
    return left in right or right in left


def option_letter(text: str) -> str:
    """Return the letter of a choice: of "B", "(B) chair", "A)", "Answer: C."; "" without one."""
    found = re.match(
        r"\s*(?:(?:the\s+)?(?:correct\s+)?(?:answer|option)(?:\s+is)?\s*:?\s*)?\(?([A-Za-z])\)?"
        r"(?:[.):,\s]|$)",
        text,
        re.IGNORECASE,
    )
    return found.group(1).upper() if found else ""


def first_number(text: str) -> float | None:
    """Return the first number of an answer, digits or a word up to twenty; None without one."""
    found = re.search(r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?", text)
    words = re.search(rf"\b({'|'.join(sorted(_NUMBERS, key=len, reverse=True))})\b", text.lower())
    if words and (found is None or words.start() < found.start()):
        return float(_NUMBERS.index(words.group(1)))
    return float(found.group(0).replace(",", "")) if found else None
