"""Configs as options: spelling, help, files, precedence, and what a wrong one is told."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import typer
from typer.testing import CliRunner, Result

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.options import DryRun, Program
from vega3d.pipeline.settings import (
    Choice,
    as_toml,
    build,
    field_docs,
    name_flags,
    settings,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lens:
    """What is seen."""

    size: tuple[int, int] | Literal["auto"] = (480, 832)
    """Rows and columns, px."""

    taps: tuple[int, ...] = (20,)
    """Blocks that
    are kept; see `num_views`."""

    mode: Literal["pad", "crop"] = "pad"
    """How."""

    def __post_init__(self) -> None:
        if isinstance(self.size, tuple) and self.size[0] % 16:
            raise ValueError(f"size must be a multiple of 16, got {self.size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Decides what is looked at."""

    lens: Lens = field(default_factory=Lens)
    """Nested."""

    num_views: int = field(default=32, metadata={"option": "--views"})
    """Views of a scene."""

    share: float = 0.5
    """Of pixels, such as `cuda` has; the mode of a thing is no setting."""

    quick: bool = False
    """Do less."""

    def __post_init__(self) -> None:
        if self.num_views < 0:
            raise ValueError(f"num_views must be >= 0, not a mode, got {self.num_views}")
        if self.share > 1:
            raise ValueError(f"share and num_views must fit, got {self.share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where."""

    store: tuple[str, ...] = field(metadata={"repeat": True})
    """A store; repeat it for several."""

    label: str | None = None
    """A name."""

    device: Literal["cpu", "cuda"] = field(default="cpu", metadata={"also": ("auto",)})
    """Where it runs."""

    per_shard: int = field(default=8, metadata={"usual": "8 on a GPU, 1 on a CPU"})
    """Scenes of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """An encoder of one kind."""

    name: ClassVar[str] = "film"

    blocks: tuple[int, ...] = (20,)
    """Which are kept."""

    steps: tuple[int, ...] = (300,)
    """Of noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Still:
    """An encoder of another kind."""

    name: ClassVar[str] = "still"

    blocks: tuple[int, ...] = (-2,)
    """Which are kept, from the end."""

    native: bool = False
    """At its own size."""


ENCODERS: dict[str, Callable[[], Any]] = {
    "film": Film,
    "still": Still,
    "old": lambda: Film(steps=(299,)),
}
CHOICE = Choice(names=lambda: tuple(ENCODERS), make=lambda name, _: ENCODERS[name]())


@dataclass(frozen=True, kw_only=True, slots=True)
class Extract:
    """Decides what is stored."""

    encoder: Film | Still = field(
        default_factory=Film, metadata={"choice": CHOICE, "alias": "--preset"}
    )
    """Which encoder."""

    grid: tuple[int, int] = (14, 14)
    """Cells."""


SEEN: dict[str, Any] = {}


def by_device(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    device = "cpu" if asked.get("device", "auto") == "auto" else asked["device"]
    return {"device": device, "per_shard": asked.get("per_shard", 1 if device == "cpu" else 8)}


app = Program("see", "Look at things.")


@app.callback()
def _shared() -> None:
    """Look at things."""


@app.command(fill=by_device)
def look(
    scenes: Annotated[str, typer.Argument(metavar="SCENES", help="What.")],
    places: Places,
    config: Look,
    every_s: Annotated[float, typer.Option(help="Seconds.")] = 5.0,
    dry_run: DryRun = False,
) -> None:
    """Look."""
    SEEN.clear()
    SEEN.update(scenes=scenes, places=places, config=config, every_s=every_s, dry_run=dry_run)
    if scenes == "bad":
        raise UsageError("num_views must be fewer than the scene has: /data/num_views/a")


@app.command(without=("views", "taps"), defaults={"mode": "crop"})
def glance(config: Look, depth: Annotated[int, typer.Option(help="Deep.")] = 1) -> None:
    """Glance."""
    SEEN.clear()
    SEEN.update(config=config, depth=depth)


@app.command()
def extract(config: Extract) -> None:
    """Extract."""
    SEEN.clear()
    SEEN.update(config=config)


def invoke(*args: str, code: int = 0) -> Result:
    SEEN.clear()
    result = CliRunner().invoke(app, args)
    assert result.exit_code == code, result.output
    return result


def given(*args: str) -> dict[str, Any]:
    invoke("look", "room", "--store", "s", *args)
    return SEEN


def told(*args: str) -> str:
    result = CliRunner().invoke(app, args)
    assert result.exit_code != 0
    return " ".join(f"{result.output} {result.exception}".split())


def test_an_option_is_made_of_each_field_and_the_command_is_handed_the_configs() -> None:
    assert given()["config"] == Look()
    options = ("--size", "320x240", "--taps", "1,-2", "--mode", "crop", "--views", "4", "--quick")
    assert given(*options)["config"] == Look(
        lens=Lens(size=(240, 320), taps=(1, -2), mode="crop"), num_views=4, quick=True
    )
    assert given("--size", "auto")["config"].lens.size == "auto"
    assert given("--store", "t,u")["places"].store == ("s", "t,u")
    assert given("--every-s", "2")["every_s"] == 2.0


def test_help_tells_the_docs_the_types_and_the_defaults() -> None:
    text = " ".join(invoke("look", "--help").output.split())
    for part in (
        "--size <WIDTHxHEIGHT|auto> Rows and columns, px. [default: 832x480]",
        "--taps <int,...> Blocks that are kept; see --views. [default: 20]",
        "--mode <pad|crop> How. [default: pad]",
        "--quick / --no-quick Do less. [default: --no-quick]",
        "--label <str> A name. --device <auto|cpu|cuda> Where",
        "--per-shard <int> Scenes of a file. [default: 8 on a GPU, 1 on a CPU]",
        "--store <str> A store; repeat it for several. [required]",
        "such as `cuda` has; the mode of a thing is no setting.",
    ):
        assert part in text
    other = " ".join(invoke("glance", "--help").output.split())
    assert "--views" not in other
    assert "--mode <pad|crop> How. [default: crop]" in other


def test_defaults_that_depend_on_the_device_give_way_to_what_is_asked() -> None:
    assert given()["places"].per_shard == 1
    assert given("--device", "cuda")["places"].per_shard == 8
    assert given("--device", "cuda", "--per-shard", "3")["places"].per_shard == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--taps", "twenty"), "--taps takes numbers such as 10,20, got 'twenty'"),
        (("--size", "480"), "--size takes WIDTHxHEIGHT such as 832x480 or auto, got '480'"),
        (("--size", "832x481"), "--size must be a multiple of 16, got (481, 832)"),
        (("--mode", "fill"), "--mode takes pad or crop, got 'fill'"),
        (("--views", "2.5"), "--views takes a whole number, got '2.5'"),
        (("--views", "-1"), "--views must be >= 0, not a mode, got -1"),
        (("--share", "2"), "--share and --views must fit, got 2.0"),
        (("again",), "look takes one SCENES, but got again too; quote a name"),
        (("--vieuws", "2"), "No such option: --vieuws"),
    ],
)
def test_errors_name_the_flag_and_what_it_takes(args: tuple[str, ...], message: str) -> None:
    assert message in told("look", "room", "--store", "s", *args)


def test_errors_of_the_function_name_the_flag_too_but_no_part_of_a_path() -> None:
    message = told("look", "bad", "--store", "s")
    assert message.endswith("--views must be fewer than the scene has: /data/num_views/a")


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "look.toml"
    file.write_text(
        'size = "320x240"\ntaps = [1, 2]\nviews = 4\nquick = true\nstore = ["a", "b"]\n'
        "every_s = 2\nshare = 1\n"
    )
    invoke("look", "room", "--config", str(file), "--taps", "7", "--no-quick")
    lens = Lens(size=(240, 320), taps=(7,))
    assert SEEN["config"] == Look(lens=lens, num_views=4, quick=False, share=1.0)
    assert SEEN["places"].store == ("a", "b")
    assert SEEN["every_s"] == 2.0


def test_show_config_prints_a_file_that_gives_the_same_configs(tmp_path: Path) -> None:
    options = ("--size", "320x240", "--taps", "1,-2", "--store", "s", "--label", 'a "b" \u00fc')
    shown = invoke("look", *options, "--device", "cuda", "--show-config").output
    assert not SEEN  # and nothing is done
    assert tomllib.loads(shown)["size"] == "320x240"
    file = tmp_path / "shown.toml"
    file.write_text(shown, "utf-8")
    invoke("look", "room", "--config", str(file))
    again = dict(SEEN)
    invoke("look", "room", *options, "--device", "cuda")
    assert again == SEEN
    without_what_must_be_told = tomllib.loads(invoke("look", "--show-config").output)
    assert without_what_must_be_told["every_s"] == 5.0
    assert not {"scenes", "store", "dry_run"} & without_what_must_be_told.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vieuws = 3", "there is no setting 'vieuws'; is it views?"),
        ("views = 2.5", "views: takes a whole number, got '2.5'"),
        ("views = true", "views: takes a whole number, got 'true'"),
        ("quick = 1", "quick: takes true or false, got '1'"),
        ("taps = ['a']", "taps: takes numbers such as 10,20, got"),
        ("every_s = 'soon'", "every_s: "),
        ("dry_run = true", "there is no setting 'dry_run'"),
        ("taps = [[1], {a = 1}]", "taps: holds [1], which is no setting's value"),
        ("[look]\nviews = 3", "[look] is a table, settings stand in none"),
        ("views = ", "is no TOML file: "),
    ],
)
def test_a_bad_file_is_told_with_its_name_and_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "look.toml"
    file.write_text(text)
    said = told("look", "room", "--store", "s", "--config", str(file))
    assert f"--config {file}" in said
    assert message in said


def test_a_file_that_is_not_there() -> None:
    assert "--config none.toml: No such file" in told("look", "room", "--config", "none.toml")


def test_what_only_another_command_takes_is_said_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "look.toml"
    file.write_text("views = 4\nshare = 0.25\n")
    result = invoke("glance", "--config", str(file))
    assert SEEN["config"] == Look(share=0.25, lens=Lens(mode="crop"))
    assert f"--config {file}: glance has no use for views" in result.output


def test_a_choice_brings_its_own_options_and_defaults() -> None:
    invoke("extract", "--steps", "1,2")
    assert SEEN["config"] == Extract(encoder=Film(steps=(1, 2)))
    invoke("extract", "--native", "--encoder=still", "--grid", "7x8")
    assert SEEN["config"] == Extract(encoder=Still(native=True), grid=(8, 7))
    invoke("extract", "--preset", "old", "--blocks", "3")
    assert SEEN["config"] == Extract(encoder=Film(steps=(299,), blocks=(3,)))
    film = " ".join(invoke("extract", "--help").output.split())
    assert "--encoder, --preset <film|still|old> Which encoder." in film
    assert "--blocks <int,...> Which are kept. [default: 20] --steps" in film
    assert "--native" not in film
    still = " ".join(invoke("extract", "--help", "--encoder", "still").output.split())
    assert "Below: the options of still; `--encoder NAME --help`: another's." in still
    assert "--blocks <int,...> Which are kept, from the end. [default: -2]" in still
    assert "--steps" not in still


def test_an_option_of_another_choice_says_which_has_it() -> None:
    said = told("extract", "--encoder", "still", "--steps", "3")
    assert "--steps goes with --encoder film, not with still" in said
    assert "--native goes with --encoder still, not with film" in told("extract", "--native")
    said = told("extract", "--encoder", "stale", "--steps", "3")
    assert "--encoder takes film, still or old, got 'stale'" in said


def test_a_choice_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "extract.toml"
    file.write_text(invoke("extract", "--encoder", "still", "--native", "--show-config").output)
    assert file.read_text().splitlines()[1:3] == ['encoder = "still"', "blocks = [-2]"]
    invoke("extract", "--config", str(file))
    assert SEEN["config"] == Extract(encoder=Still(native=True))
    overruled = invoke("extract", "--config", str(file), "--encoder", "film", "--grid", "2x2")
    assert SEEN["config"] == Extract(grid=(2, 2))  # not still's blocks
    assert "extract film has no use for blocks, native" in overruled.output
    file.write_text("native = true")
    said = told("extract", "--config", str(file))
    assert f"--config {file}: native goes with --encoder still, not with film" in said
    file.write_text("encoder = 3")
    assert "encoder: takes film, still or old, got '3'" in told("extract", "--config", str(file))


def test_docs_are_those_under_the_fields_of_a_class_and_its_bases() -> None:
    @dataclass(frozen=True)
    class Derived(Lens):
        """Has no doc of its own."""

    assert field_docs(Derived)["taps"] == "Blocks that are kept; see `num_views`."
    assert field_docs(Places)["label"] == "A name."


def test_build_changes_what_is_given_and_checks_once_more() -> None:
    assert build(Look, {"views": 3, "mode": "crop", "other": 1}) == Look(
        num_views=3, lens=Lens(mode="crop")
    )
    assert build(Look(share=0.1), {"views": 3}) == Look(num_views=3, share=0.1)
    with pytest.raises(ValueError, match="multiple of 16"):
        build(Look, {"size": (3, 3)})


def test_flags_stand_for_field_names_and_for_no_other_word() -> None:
    known = {item.field: item.flag for item in settings(Look)}
    assert name_flags("num_views, `mode` and a mode; mode must be", known) == (
        "--views, --mode and a mode; --mode must be"
    )
    assert name_flags("nothing", {}) == "nothing"


def test_a_file_leaves_out_what_has_no_value_and_what_is_not_wanted() -> None:
    assert tomllib.loads(as_toml(Look(), without=("size", "taps"))) == {
        "mode": "pad",
        "views": 32,
        "share": 0.5,
        "quick": False,
    }
    assert "label" not in tomllib.loads(as_toml(Places(store=("a",))))
