"""What a run keeps vouches for itself: no flipped bit is trained on, and a resume goes on."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vega3d.pipeline.errors import UsageError
from vega3d.train import RunConfig, TrainConfig, fit
from vega3d.train.checkpoint import load_state, load_weights, save_state, save_weights
from vega3d.train.evaluation import evaluate_run
from vega3d.train.journal import read_metrics
from vega3d.train.rundir import read_record, recorded_model

CONFIG = TrainConfig(tasks=("depth",), hidden_dim=8, heads=2, steps=6, batch_size=4, ema=0.5)
QUICK = RunConfig(log_every=1, eval_every=3, checkpoint_every=2, workers=0)
NEWEST, OLDER = "checkpoint-00000006.safetensors", "checkpoint-00000004.safetensors"


@pytest.fixture(scope="module")
def finished(stores: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that is done; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    fit(stores.prior, stores.semantic, folder, CONFIG, QUICK)
    return folder


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run_dir) if line["kind"] == "train"]


def bits(path: Path, count: int) -> list[int]:
    """Return places all over a file, its first and last bytes among them."""
    size = 8 * path.stat().st_size
    return [0, 7, 64, 65, size - 1, *random.Random(0).sample(range(size), count - 5)]


@pytest.mark.slow
def test_no_flipped_bit_of_a_checkpoint_is_resumed_from(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    identity = read_record(run_dir)["identity"]
    whole = (run_dir / NEWEST).read_bytes()
    assert load_state(run_dir, identity).done == 6
    for bit in bits(run_dir / NEWEST, 120):
        flip(run_dir / NEWEST, bit)
        caplog.clear()
        assert load_state(run_dir, identity).done == 4, f"bit {bit}"
        assert f"{NEWEST} is damaged" in caplog.text
        (run_dir / NEWEST).write_bytes(whole)


@pytest.mark.slow
def test_no_flipped_bit_of_the_weights_is_scored(run_dir: Path) -> None:
    record = read_record(run_dir)
    path = run_dir / "last.safetensors"
    whole = path.read_bytes()
    for bit in bits(path, 120):
        flip(path, bit)
        with pytest.raises(UsageError, match="last.safetensors is damaged"):
            load_weights(path, recorded_model(record), record["identity"])
        path.write_bytes(whole)
    load_weights(path, recorded_model(record), record["identity"])


def test_sealed_files_are_plain_safetensors(run_dir: Path) -> None:
    record = read_record(run_dir)
    model = recorded_model(record)
    load_weights(run_dir / "best.safetensors", model, record["identity"])
    plain = load_file(run_dir / "best.safetensors")
    assert plain.keys() == model.state_dict().keys()
    assert all(torch.equal(plain[name], value) for name, value in model.state_dict().items())


def test_weights_of_another_network_are_refused_by_name(stores: object, run_dir: Path) -> None:
    """As a version leaves them whose head of a task was another one."""
    record = read_record(run_dir)
    model = recorded_model(record)
    path, state = run_dir / "last.safetensors", load_state(run_dir, record["identity"])
    model.tasks["depth"] = torch.nn.Linear(3, 2)
    save_weights(path, model, record["identity"])
    with pytest.raises(UsageError, match="last.safetensors holds tensors of another network, such"):
        load_weights(path, recorded_model(record), record["identity"])
    assert state is not None
    save_state(run_dir, replace(state, done=7, model=model.state_dict()), record["identity"])
    (run_dir / "summary.json").unlink()
    with pytest.raises(UsageError, match="checkpoint holds tensors of another network, such"):
        fit(stores.prior, stores.semantic, run_dir, CONFIG, QUICK)


@pytest.mark.one_quick
@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_run_goes_on_from_the_older_checkpoint_where_the_newest_is_cut_short(
    stores: object, run_dir: Path, caplog: pytest.LogCaptureFixture, keep: int
) -> None:
    want = losses(run_dir)
    (run_dir / "summary.json").unlink()
    (run_dir / NEWEST).write_bytes((run_dir / NEWEST).read_bytes()[:keep])
    assert fit(stores.prior, stores.semantic, run_dir, CONFIG, QUICK)["finished"]
    assert "going on from the checkpoint before it, after step 4" in caplog.text
    assert losses(run_dir) == want
    assert load_state(run_dir, read_record(run_dir)["identity"]).done == 6


def test_without_a_whole_checkpoint_a_run_says_so(stores: object, run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    (run_dir / NEWEST).write_bytes(b"")
    (run_dir / OLDER).write_bytes(b"")
    with pytest.raises(UsageError, match="no checkpoint is whole.*remove them to start the run"):
        fit(stores.prior, stores.semantic, run_dir, CONFIG, QUICK)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": 0.5}, r"train\.lr was 0\.\d+, now 0\.5"),
        ({"variant": "add"}, r"train\.variant was 'adaptive', now 'add'"),
        ({"split_seed": 7}, r"train\.split_seed was 0, now 7"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(
    stores: object, run_dir: Path, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    """Also where no run.json says what the folder is."""
    (run_dir / "summary.json").unlink()
    (run_dir / "run.json").unlink()
    with pytest.raises(UsageError, match=rf"checkpoint-.* is of another run: {told}"):
        fit(stores.prior, stores.semantic, run_dir, replace(CONFIG, **change), QUICK)


def test_weights_of_another_run_are_refused(stores: object, run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    fit(stores.prior, stores.semantic, other, replace(CONFIG, seed=3), QUICK)
    shutil.copy(other / "last.safetensors", run_dir)
    with pytest.raises(UsageError, match=r"last\.safetensors is of another run: train\.seed was 3"):
        evaluate_run(run_dir, QUICK)


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_flipped_digit_in_what_a_run_says_of_itself_is_found(
    stores: object, run_dir: Path, name: str
) -> None:
    text = (run_dir / name).read_text()
    fields = json.loads(text)
    shown = fields["score"] if name == "summary.json" else fields["identity"]["train"]["lr"]
    for damaged in (text.replace(str(shown), str(shown) + "1"), text[:40], "[]", "[" * 100_000):
        (run_dir / name).write_text(damaged)
        with pytest.raises(UsageError, match=f"{name} is damaged .*; remove it and repeat"):
            fit(stores.prior, stores.semantic, run_dir, CONFIG, QUICK)
    (run_dir / name).unlink()
    assert fit(stores.prior, stores.semantic, run_dir, CONFIG, QUICK)["score"] is not None


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"step": "x", "kind": "train"}', "\udcff"])
def test_a_damaged_line_of_the_log_is_named(run_dir: Path, line: str) -> None:
    path = run_dir / "metrics.jsonl"
    path.write_bytes(line.encode(errors="surrogateescape") + b"\n" + path.read_bytes())
    with pytest.raises(UsageError, match=r"metrics\.jsonl, line 1: is damaged"):
        read_metrics(run_dir)


def test_an_unsealed_checkpoint_of_an_older_version_is_named_and_not_read(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    identity = read_record(finished)["identity"]
    old = tmp_path / "checkpoint.pt"
    old.write_bytes(b"\x80\x05cposix\nsystem\n.")  # whoever unpickles this runs a command
    assert load_state(tmp_path, identity) is None
    assert f"{old} was saved by an older vega3d" in caplog.text
    assert "repeat the command with the version that wrote it; else remove it" in caplog.text
    caplog.clear()
    shutil.copy(finished / NEWEST, tmp_path)
    assert load_state(tmp_path, identity).done == 6
    assert not caplog.records
