"""A question about a room with its answer, before it is written in a benchmark's format."""

from dataclasses import dataclass, field
from typing import Any, Literal

Needs = Literal["geometry", "appearance", "both"]
"""`appearance`: what things look like answers it. `geometry`: the things are named, where they are
or how large answers it. `both`: geometry picks out the thing whose looks (or place) are asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question, its answer, and what a guess is worth."""

    benchmark: str
    scene_id: str
    template: str
    """Which sentence was filled in; guesses by template know no more than the sentence."""

    needs: Needs
    text: str
    """What is asked, without the situation."""

    answer: str
    """The right answer; of a choice its words, of targets their numbers."""

    options: tuple[str, ...] = ()
    """Every answer that the sentence leaves open, where it names them."""

    kind: str = ""
    """Question type in the benchmark's own words."""

    targets: tuple[int, ...] = ()
    """Numbers of the things that are meant."""

    chance: float = 0.0
    """What the best guess from the question alone is worth on average, in [0, 1]."""

    more: dict[str, Any] = field(default_factory=dict)
    """Fields of the benchmark's own, such as a situation's pose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """Asks one benchmark's questions about one room."""

    benchmark: str
    scene_id: str
    more: dict[str, Any] = field(default_factory=dict)
    """Of all its questions, such as where someone stands."""

    def __call__(
        self, template: str, needs: Needs, text: str, answer: str, options: tuple[str, ...] = ()
    ) -> Question:
        """Return a question; VSI-Bench's templates are its question types."""
        return Question(
            benchmark=self.benchmark,
            scene_id=self.scene_id,
            template=template,
            needs=needs,
            text=text,
            answer=answer,
            options=options,
            kind=template if self.benchmark == "vsi" else "",
            more=self.more,
        )
