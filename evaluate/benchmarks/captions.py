"""CIDEr, BLEU, ROUGE-L and METEOR of texts against references, through pycocoevalcap.

The published tables were made with this package or copies of it. METEOR and the PTB tokeniser are
Java programs whose jars it ships: without Java METEOR is left out and the tokeniser refused.
Letters: N texts.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64

from vega3d.evaluate.benchmarks.measures import OVERALL, Measure, mean_measures
from vega3d.pipeline.errors import UsageError

Texts = Mapping[str, Sequence[str]]

_ORDERS = 4
_BREAKS = str.maketrans(dict.fromkeys("\n\r\v\f\x85\u2028\u2029", " "))
"""What ends a line in Java; its programs take a text a line, so that a text with one in it would
shift the numbers of all that follow."""
_log = logging.getLogger(__name__)


def caption_measures(
    references: Texts, answers: Texts, *, meteor: bool | None = None
) -> tuple[tuple[Measure, ...], Float64[np.ndarray, " N"]]:
    """Return the measures over all texts, and each text's CIDEr (1 is 100 in the tables).

    Args:
        references: By id, one or more texts, tokens parted by spaces.
        answers: By the same ids in the same order, one text each.
        meteor: None computes METEOR where Java is there.

    Raises:
        UsageError: pycocoevalcap is not installed, or METEOR is asked for without Java.
    """
    scorers = _scorers()
    references, answers = dict(references), {key: list(text) for key, text in answers.items()}
    _, ciders = scorers["cider"]().compute_score(references, answers)
    _, rouges = scorers["rouge"]().compute_score(references, answers)
    cider = np.asarray(ciders, dtype=np.float64)
    measures = [
        *mean_measures("cider", cider, ()),
        *_bleu_measures(scorers["bleu_scorer"], references, answers),
        *mean_measures("rouge-l", np.asarray(rouges, dtype=np.float64), ()),
    ]
    has_java = shutil.which("java") is not None
    if meteor and not has_java:
        raise UsageError("METEOR needs Java: install a JRE (Debian: default-jre-headless)")
    if has_java and meteor is not False:
        measures += _meteor_measures(scorers["meteor"], references, answers)
    elif meteor is None:
        _log.warning("METEOR is left out: it needs Java (Debian: default-jre-headless)")
    return tuple(measures), cider


def tokenise(texts: Texts) -> dict[str, list[str]]:
    """Return texts as the COCO captions' PTB tokeniser writes them: lower case, no punctuation.

    Every line break counts as a space; the package takes out line feeds alone.

    Raises:
        UsageError: There is no Java, or no pycocoevalcap.
    """
    if shutil.which("java") is None:
        raise UsageError(
            "the PTB tokeniser needs Java: install a JRE (Debian: default-jre-headless), or use "
            "--protocol released, which tokenises nothing"
        )
    tokeniser = _scorers()["tokeniser"]()
    plain = {
        key: [{"caption": text} for text in each] for key, each in _one_line_each(texts).items()
    }
    return dict(tokeniser.tokenize(plain))


def _bleu_measures(scorer: Any, references: Texts, answers: Texts) -> list[Measure]:  # noqa: ANN401 - untyped package
    """Return corpus BLEU-1 to 4 from each text's n-gram counts and lengths."""
    bleu = scorer(n=_ORDERS)
    for key, (answer,) in answers.items():
        bleu += (answer, list(references[key]))
    statistics = np.array([_bleu_counts(parts) for parts in bleu.ctest], dtype=np.float64)
    statistics = statistics.reshape(-1, 2 * _ORDERS + 2)
    return [
        Measure(
            metric=f"bleu-{order}",
            group=OVERALL,
            statistics=statistics,
            reduce=partial(_bleu, order=order),
        )
        for order in range(1, _ORDERS + 1)
    ]


def _bleu_counts(parts: Mapping[str, Any]) -> list[float]:
    length = parts["testlen"]
    closest = min(parts["reflen"], key=lambda reference: (abs(reference - length), reference))
    return [*parts["correct"], *parts["guess"], length, closest]


def _bleu(totals: Float64[np.ndarray, "... S"], order: int) -> Float64[np.ndarray, "..."]:
    """Return corpus BLEU of summed counts.

    Source: Papineni et al., BLEU, ACL 2002, with pycocoevalcap's tiny and small constants.
    """
    tiny, small = 1e-15, 1e-9
    correct, guess = totals[..., :order], totals[..., _ORDERS : _ORDERS + order]
    length, reference = totals[..., -2], totals[..., -1]
    precision = np.prod((correct + tiny) / (guess + small), axis=-1) ** (1 / order)
    ratio = (length + tiny) / (reference + small)
    return np.asarray(precision * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0))


def _meteor_measures(meteor: Any, references: Texts, answers: Texts) -> list[Measure]:  # noqa: ANN401 - untyped package
    """Return METEOR with the program's own total; resampled by the mean of its text scores.

    Its total weighs texts by their lengths inside the program, so it is no mean of them: the
    difference is kept as a constant, so that the measure's value is the program's number. Line
    breaks count as spaces here: the program would take what follows for another command.
    """
    scorer = meteor()
    try:
        total, each = scorer.compute_score(_one_line_each(references), _one_line_each(answers))
    finally:
        scorer.meteor_p.kill()
        scorer.meteor_p.wait()
        for pipe in (scorer.meteor_p.stdin, scorer.meteor_p.stdout, scorer.meteor_p.stderr):
            pipe.close()
    values = np.asarray(each, dtype=np.float64)
    shift = float(total) - float(values.mean())
    return [*mean_measures("meteor", values + shift, ())]


def _one_line_each(texts: Texts) -> dict[str, list[str]]:
    return {key: [text.translate(_BREAKS) for text in each] for key, each in texts.items()}


def _scorers() -> dict[str, Any]:
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise UsageError(
            f"caption metrics need an extra ({error}): pip install 'vega3d[benchmarks]'"
        ) from error
    return {
        "bleu_scorer": BleuScorer,
        "cider": Cider,
        "meteor": Meteor,
        "rouge": Rouge,
        "tokeniser": PTBTokenizer,
    }
