import csv
import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vega3d.pipeline import open_store
from vega3d.pipeline.errors import UsageError
from vega3d.train import GatedFusion, RunConfig, TrainConfig, ablate, fit
from vega3d.train.ablation import _table, _verdict, compare, paired_p
from vega3d.train.charts import Curve, histogram, line_chart
from vega3d.train.cli import main
from vega3d.train.config import AblationConfig
from vega3d.train.evaluation import evaluate_run
from vega3d.train.export import export_fusion, export_webdataset
from vega3d.train.gates import GENERATIVE_RGB, SEMANTIC_RGB, gate_range, overlay, vary
from vega3d.train.pairing import pair_stores
from vega3d.train.report import peak_text
from vega3d.train.rundir import read_record, recorded_model

CONFIG = TrainConfig(tasks=("depth",), hidden_dim=8, heads=2, steps=4, batch_size=4)
QUICK = RunConfig(log_every=2, eval_every=4, checkpoint_every=4, workers=1)


@pytest.fixture(scope="module")
def run_dir(stores: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    fit(stores.prior, stores.semantic, path, replace(CONFIG, steps=20), QUICK)
    return path


# Ablation


def summary(score: float | None, **scenes: float | None) -> dict[str, object]:
    return {"metrics": {"depth/delta125": score}, "score": score, "scene_scores": scenes}


def test_table_by_hand() -> None:
    runs = {
        "semantic": [summary(0.50, a=0.4, b=0.6), summary(0.54, a=0.5, b=0.6)],
        "adaptive": [summary(0.60, a=0.8, b=0.4), summary(0.66, a=0.8, b=0.4)],
    }
    best, base = compare(runs, "semantic")
    assert (best.variant, base.variant) == ("adaptive", "semantic")
    assert best.means["score"] == pytest.approx(0.63)
    assert best.deviations["score"] == pytest.approx(0.06 / 2**0.5)
    assert best.gain == pytest.approx((0.10 + 0.12) / 2)
    # Differences 0.10, 0.12: t = 0.11 / 0.01 = 11 with one degree: p = 1 - 2/pi atan(11).
    assert best.p == pytest.approx(1 - 2 / np.pi * np.arctan(11))
    assert (best.scenes_better, best.scenes) == (1, 2)
    assert base.p is None


def test_a_table_that_blind_wins_says_that_the_features_show_nothing() -> None:
    runs = {"semantic": [summary(0.5, a=0.5)], "blind": [summary(0.6, a=0.6)]}
    assert "None of the others has a higher mean score than it here" in _verdict(
        compare(runs, "semantic")
    )
    runs["adaptive"] = [summary(0.7, a=0.7)]
    assert _verdict(compare(runs, "semantic")) == (
        " 1 of the 2 others have a higher mean score than it."
    )


def test_p_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for size in range(2, 12):
        values = rng.normal(0.3, 1, size).tolist()
        assert paired_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-12)
    assert paired_p([0.1]) is None
    assert paired_p([0.0, 0.0]) is None
    assert paired_p([0.1, 0.1, 0.3 - 0.2]) is None  # one difference, but for rounding


def test_holm_holds_back_what_one_test_alone_would_call_sure() -> None:
    base = [summary(0.5, a=0.5) for _ in range(4)]
    differences = (0.02, 0.03, 0.012, 0.04)  # p = 0.025: sure alone, not among five
    one = [summary(0.5 + d, a=0.5) for d in differences]
    alone = compare({"semantic": base, "adaptive": one}, "semantic")[0]
    assert alone.p < 0.05
    assert alone.sure
    others = dict.fromkeys(("add", "concat", "channel", "weighted"), one)
    assert not any(
        row.sure for row in compare({"semantic": base, "adaptive": one, **others}, "semantic")
    )


@pytest.mark.slow
def test_ablation_trains_all_writes_the_table_and_does_not_train_twice(
    stores: object, tmp_path: Path
) -> None:
    compared = AblationConfig(variants=("semantic", "adaptive", "blind"), seeds=(0, 1))
    arguments = (stores.prior, stores.semantic, tmp_path, CONFIG, QUICK, compared)
    result = ablate(*arguments)
    assert result["finished"]
    assert {row["variant"] for row in result["table"]} == set(compared.variants)
    text = (tmp_path / "ablation.md").read_text()
    assert "Split by scene: 3 to train, 1 scored" in text
    assert "It speaks of the noise of training, not of other scenes" in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "ablation.csv").read_text())))
    assert len(rows) == 3
    assert (tmp_path / "report.html").exists()
    left = tomllib.loads((tmp_path / "config.toml").read_text())
    assert left["variants"] == list(compared.variants)
    assert not {"variant", "seed"} & left.keys()
    checkpoint = tmp_path / "adaptive" / "seed1" / "last.safetensors"
    before = checkpoint.stat().st_mtime_ns
    assert ablate(*arguments)["table"] == result["table"]
    assert checkpoint.stat().st_mtime_ns == before
    # All runs share one split.
    splits = {
        json.dumps(read_record(path.parent)["split"]) for path in tmp_path.glob("*/seed*/run.json")
    }
    assert len(splits) == 1


@pytest.mark.slow
def test_ablation_under_torchrun_joins_once_and_finishes(stores: object, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "vega3d.train.cli", "ablate", "--prior", stores.prior]
    command += ["--semantic", stores.semantic, "--out", str(tmp_path / "runs"), "--task", "depth"]
    command += ["--variants", "semantic,add", "--seeds", "0", "--hidden-dim", "8", "--heads", "2"]
    command += ["--steps", "2", "--batch-size", "4"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["finished"]


def test_ablation_refuses_what_it_cannot_compare(stores: object, tmp_path: Path) -> None:
    arguments = (stores.prior, stores.semantic, tmp_path, CONFIG, QUICK)
    with pytest.raises(ValueError, match=r"unknown variants \['gated'\]"):
        AblationConfig(variants=("semantic", "gated"))
    with pytest.raises(ValueError, match="`baseline` 'semantic' must be one of `variants`"):
        AblationConfig(variants=("adaptive",))
    with pytest.raises(ValueError, match="seeds must be one or more, all different"):
        AblationConfig(seeds=(1, 1))
    flat = (*arguments[:3], replace(CONFIG, reader_layers=0), QUICK)
    with pytest.raises(UsageError, match="sequence hands over twice the tokens"):
        ablate(*flat, AblationConfig(variants=("semantic", "sequence")))
    apart = (*arguments[:3], replace(CONFIG, tasks=("matching",), match_radius_m=1e-9), QUICK)
    with pytest.raises(UsageError, match="matching: no two scored views share a point"):
        ablate(*apart)
    assert not list(tmp_path.iterdir())


def test_fit_refuses_a_task_that_the_scored_views_cannot_answer(
    stores: object, tmp_path: Path
) -> None:
    config = replace(CONFIG, tasks=("depth", "matching"), match_radius_m=1e-9)
    with pytest.raises(
        UsageError, match=r"^matching: no two scored views share .* \(--split-seed\)"
    ):
        fit(stores.prior, stores.semantic, tmp_path, config, QUICK)
    assert not list(tmp_path.iterdir())


def test_a_table_stands_scores_that_are_missing() -> None:
    runs = {
        "semantic": [summary(0.5, a=0.5), summary(0.6, a=0.5)],
        "adaptive": [summary(None, a=None) | {"metrics": {}}, summary(0.7, a=0.7)],
    }
    rows = compare(runs, "semantic")
    assert [row.variant for row in rows] == ["semantic", "adaptive"]
    assert np.isnan(rows[1].means["score"])
    assert rows[1].p is None
    assert _table(rows, "semantic")[2][1] == "nan +- nan"


# Evaluation and export


def test_evaluating_a_run_again_gives_its_scores(run_dir: Path) -> None:
    written = json.loads((run_dir / "summary.json").read_text())
    again = evaluate_run(run_dir, replace(QUICK, workers=0))
    assert again["metrics"] == written["metrics"]
    assert evaluate_run(run_dir, force_gate=1.0)["gate_mean"] == 1.0
    with pytest.raises(UsageError, match="--labels goes with other stores"):
        evaluate_run(run_dir, labels="anywhere")


def test_a_run_whose_stores_changed_is_not_scored_on_another_split(
    make_stores: Callable[..., object], tmp_path: Path
) -> None:
    stores, other = make_stores(), make_stores(seed=1, num_scenes=5)
    fit(stores.prior, stores.semantic, tmp_path / "run", CONFIG, QUICK)
    for old, new in ((stores.prior, other.prior), (stores.semantic, other.semantic)):
        shutil.rmtree(old)
        Path(new).rename(old)
    with pytest.raises(UsageError, match=r"prior and semantic stores changed.*--prior and --sem"):
        evaluate_run(tmp_path / "run")
    found = evaluate_run(tmp_path / "run", prior=stores.prior, semantic=stores.semantic)
    assert found["scenes"] == 5


def test_stores_that_moved_keep_the_split_of_the_run(
    make_stores: Callable[..., object], tmp_path: Path
) -> None:
    stores = make_stores()
    fit(stores.prior, stores.semantic, tmp_path / "run", CONFIG, QUICK)
    own = evaluate_run(tmp_path / "run")
    moved = [str(tmp_path / name) for name in ("p", "s")]
    for old, new in zip((stores.prior, stores.semantic), moved, strict=True):
        Path(old).rename(new)
    found = evaluate_run(tmp_path / "run", prior=moved[0], semantic=moved[1])
    assert found == own
    assert found["scenes"] < 4


def test_scenes_that_were_trained_on_are_not_scored(
    make_stores: Callable[..., object], tmp_path: Path
) -> None:
    """One of the two stores is another one: the split is not the run's, the scenes are."""
    stores, other = make_stores(), make_stores(noise=("semantic",))
    fit(stores.prior, stores.semantic, tmp_path / "run", CONFIG, QUICK)
    with pytest.raises(UsageError, match=r"3 of 4 scenes were trained on, such as \['scene"):
        evaluate_run(tmp_path / "run", prior=stores.prior, semantic=other.semantic)


def test_other_stores_are_scored_whole_and_must_have_the_same_channels(
    run_dir: Path, make_stores: Callable[..., object]
) -> None:
    other = make_stores(num_scenes=2, num_views=6, seed=5)
    found = evaluate_run(run_dir, prior=other.prior, semantic=other.semantic)
    assert found["scenes"] == 2
    # Other views of a place have another hash, and its name alone tells.
    assert re.search(
        r"of these 2 scenes are called as scenes that were trained on", found["scored"]
    )
    wide = make_stores(gen_dim=16)
    with pytest.raises(
        UsageError, match=r"trained on 12 prior and 10 semantic .* these stores have 16, 10"
    ):
        evaluate_run(run_dir, prior=wide.prior, semantic=wide.semantic)
    with pytest.raises(UsageError, match="both --prior and --semantic"):
        evaluate_run(run_dir, prior=other.prior)
    with pytest.raises(UsageError, match=r"holds no run: there is no run\.json"):
        evaluate_run(run_dir / "tensorboard")


def test_exported_fusion_takes_features_as_stored(
    run_dir: Path, stores: object, tmp_path: Path
) -> None:
    export_fusion(run_dir, tmp_path / "fusion")
    fusion = GatedFusion.from_pretrained(tmp_path / "fusion")
    card = (tmp_path / "fusion" / "README.md").read_text()
    assert "variant='adaptive'" in card
    assert "pushed" not in card
    record = read_record(run_dir)
    model = recorded_model(record)
    from vega3d.train.checkpoint import load_weights

    load_weights(run_dir / "last.safetensors", model, record["identity"])
    gen, sem = (
        torch.from_numpy(open_store(url).features("scene0").reshape(8, 20, -1))
        for url in (stores.prior, stores.semantic)
    )
    valid = torch.ones(8, 20, dtype=torch.bool)
    standard = model.standardize_gen(gen, valid), model.standardize_sem(sem, valid)
    want, want_gate = model.fusion(*standard)
    fused, gate = fusion(gen, sem)
    torch.testing.assert_close(fused, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gate, want_gate, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset's reader leaves tars open
def test_webdataset_holds_every_view_as_stored(
    stores: object, tmp_path: Path, make_stores: Callable[..., object]
) -> None:
    import webdataset

    pairing = pair_stores(stores.prior, stores.semantic, labels=stores.labels)
    with pytest.raises(UsageError, match="--views-per-tar must be >= 1, got 0"):
        export_webdataset(pairing, tmp_path, views_per_tar=0)
    result = export_webdataset(pairing, tmp_path, views_per_tar=10)
    with pytest.raises(UsageError, match="is not empty"):
        export_webdataset(pairing, tmp_path)
    assert result == {"out": str(tmp_path), "tars": 4, "samples": 32}
    index = json.loads((tmp_path / "index.json").read_text())
    assert [tar["samples"] for tar in index["tars"]] == [10, 10, 10, 2]
    urls = [str(tmp_path / tar["name"]) for tar in index["tars"]]
    seen = 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        about = json.loads(sample["json"])
        view = pairing.prior.view_ids(about["scene_id"]).index(about["view_id"])
        want = pairing.prior.features(about["scene_id"])[view].reshape(20, 12)
        np.testing.assert_array_equal(np.load(io.BytesIO(sample["gen.npy"])), want)
        with np.load(io.BytesIO(sample["geometry.npz"])) as geometry:
            assert geometry["xyz_camera"].shape == (20, 3)
            assert geometry["labels"].shape == (20,)
        seen += 1
    assert seen == 32
    gc.collect()
    # The same stores give the same bytes.
    export_webdataset(pairing, tmp_path / "again", views_per_tar=10)
    for url in urls:
        assert Path(url).read_bytes() == (tmp_path / "again" / Path(url).name).read_bytes()
    with tarfile.open(urls[0]) as tar:
        assert tar.getnames()[0].startswith("scene0/00000.")


# Report


def test_gate_colours_are_blue_for_generative_orange_for_semantic_clear_for_unseen() -> None:
    gate = np.array([0.2, 0.8, np.nan, 0.5], dtype=np.float32)
    pixels = overlay(gate, (2, 2), (0.2, 0.8))
    assert tuple(pixels[0, 0]) == (*GENERATIVE_RGB, 255)
    assert tuple(pixels[0, 1]) == (*SEMANTIC_RGB, 255)
    assert pixels[1, 0, 3] == 0
    assert tuple(pixels[1, 1]) == (240, 240, 240, 255)


def test_gate_range_is_even_around_one_half_and_never_too_narrow_to_read() -> None:
    lean = {("a", 0): np.linspace(0.49, 0.6, 101, dtype=np.float32)}
    assert gate_range(lean) == pytest.approx((0.4022, 0.5978))  # 98 % of the way to 0.6
    same = {("a", 0): np.full(9, 0.5, dtype=np.float32)}
    assert gate_range(same) == pytest.approx((0.49, 0.51))
    ones = {("a", 0): np.full(9, 1.0, dtype=np.float32)}
    assert gate_range(ones) == pytest.approx((0.0, 1.0))
    assert not vary(same)
    assert vary({("a", 0): np.array([0.4, np.nan, 0.5], dtype=np.float32)})
    assert not vary({})


def test_the_page_says_what_its_colours_mean_and_shows_no_map_of_one_number(
    run_dir: Path, stores: object, tmp_path: Path
) -> None:
    page = (run_dir / "report.html").read_text()
    assert re.search(r"0\.\d\d generative<.*>0\.5 even<.*>\d\.\d\d semantic<", page)
    fit(stores.prior, stores.semantic, tmp_path, replace(CONFIG, variant="weighted"), QUICK)
    assert "0.5 even" not in (tmp_path / "report.html").read_text()


def test_charts_stand_flat_and_empty_data() -> None:
    assert "nothing to draw" in line_chart([], "step", None)
    assert "nothing to draw" in histogram((0, 0), "gate")
    flat = line_chart([Curve("a & b", [1, 2], [3.0, 3.0])], "step", None)
    assert "a &amp; b" in flat
    assert "nan" not in flat


# Commands


def run_main(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def test_fit_prints_one_json_object_and_resumes(
    stores: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prior", stores.prior, "--semantic", stores.semantic, "--out", str(tmp_path / "r")]
    options += ["--hidden-dim", "8", "--heads", "2", "--steps", "3", "--batch-size", "4"]
    assert run_main("fit", *options, "--task", "depth,matching") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 3
    assert {"depth/absrel", "matching/recall"} <= set(result["metrics"])
    assert run_main("fit", *options, "--task", "depth,matching") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == result["metrics"]
    left = ["--config", str(tmp_path / "r" / "config.toml")]
    assert run_main("fit", *options[:6], *left) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == result["metrics"]
    assert run_main("fit", *options[:6], *left, "--steps", "4", "--show-config") == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert (shown["hidden_dim"], shown["steps"]) == (8, 4)
    assert shown["task"] == ["depth", "matching"]
    assert run_main("eval", str(tmp_path / "r"), *left) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["metrics"] == result["metrics"]
    assert "eval has no use for task, variant, hidden_dim" in told.err
    assert run_main("export", str(tmp_path / "r"), "--out", str(tmp_path / "f")) == 0
    assert "model.safetensors" in json.loads(capsys.readouterr().out)["files"]


def test_dry_run_says_what_would_happen_and_writes_nothing(
    stores: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--prior", stores.prior, "--semantic", stores.semantic, "--out", str(tmp_path / "r")]
    assert run_main("fit", *both, "--steps", "6", "--batch-size", "2", "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 2  # 3 scenes of 8 views by 4 views
    assert (
        run_main("ablate", *both, "--dry-run", "--seeds", "0,1", "--variants", "add,semantic") == 0
    )
    assert json.loads(capsys.readouterr().out)["runs"] == 4
    narrow = ("--hidden-dim", "8", "--heads", "2", "--reader-layers", "0")
    assert run_main("ablate", *both, "--dry-run", *narrow) == 2
    assert "it needs --reader-layers >= 1" in capsys.readouterr().err
    apart = ("--task", "matching", "--match-radius-m", "1e-9")
    assert run_main("ablate", *both, "--dry-run", *apart) == 2
    assert "matching: no two scored views share a point" in capsys.readouterr().err
    assert run_main("export", "webdataset", *both, "--dry-run") == 0
    assert json.loads(capsys.readouterr().out) == {"samples": 32, "tars": 1}
    assert not (tmp_path / "r").exists()


def test_wrong_use_exits_2_with_the_message_alone(
    stores: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "r")]
    assert run_main("fit", "--prior", "/nowhere", "--semantic", stores.semantic, *out) == 2
    assert "there is no vega3d store here" in capsys.readouterr().err
    both = ["--prior", stores.prior, "--semantic", stores.semantic, *out]
    assert run_main("fit", *both, "--task", "colour") == 2
    assert "--task must be different names" in capsys.readouterr().err
    assert run_main("fit", *both, "--prior-tap", "k300_b20") == 2
    assert "error: " in (error := capsys.readouterr().err)
    assert "['b0']" in error
    assert run_main("ablate", *both, "--seeds", "a") == 2
    assert "--seeds takes numbers such as 10,20, got 'a'" in capsys.readouterr().err
    assert run_main("ablate", *both, "--variants", "gated") == 2
    assert "--variants takes names of adaptive, " in capsys.readouterr().err
    assert run_main("export", "webdataset", *out) == 2
    assert run_main("export", "webdataset", *both, "--weights", "best") == 2
    assert "--weights are a run's" in capsys.readouterr().err
    assert run_main("export", str(tmp_path / "run"), *both) == 2
    assert "go with webdataset" in capsys.readouterr().err
    assert run_main("export", str(tmp_path / "run"), *out, "--views-per-tar", "3") == 2
    assert run_main("export", "webdataset", *both, "--views-per-tar", "0", "--dry-run") == 2
    assert not (tmp_path / "r").exists()


@pytest.mark.one_quick
@pytest.mark.parametrize("command", [[], ["fit"], ["ablate"], ["eval"], ["export"]])
def test_help_is_light(command: list[str]) -> None:
    heavy = ("numpy", "torch", "ray", "zarr", "jaxtyping", "jinja2", "PIL")
    script = (
        "import sys\nfrom vega3d.train.cli import main\n"
        f"try:\n    main({[*command, '--help']!r})\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"assert not [name for name in {heavy!r} if name in sys.modules]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.slow
def test_training_loads_no_ray_no_diffusers_no_decoder(stores: object, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom vega3d.train.cli import main\n"
        f"try:\n    main(['fit', '--prior', {stores.prior!r}, '--semantic', {stores.semantic!r}, "
        f"'--out', {str(tmp_path)!r}, '--steps', '1', '--batch-size', '2', '--hidden-dim', '8'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "bad = ('ray', 'diffusers', 'av', 'transformers', 'dask', 'vega3d.evaluate', "
        "'vega3d.cluster')\n"
        "assert not [name for name in bad if name in sys.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_report_says_where_the_score_was_highest() -> None:
    lines = [{"kind": "train", "step": 1}]
    assert peak_text(lines) == ""
    lines += [{"kind": "val", "step": step, "score": s} for step, s in ((20, 0.3), (40, 0.354))]
    assert peak_text(lines) == "The score was highest at the last step: 0.354."
    lines.append({"kind": "val", "step": 60, "score": 0.321})
    assert "highest at step 40 (0.354) and is 0.321 at the end" in peak_text(lines)
