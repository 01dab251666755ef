import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vega3d.train import GatedFusion, from_released
from vega3d.train.config import GATED, VARIANTS

GRID = (2, 3)
GEN, SEM, DIM = 5, 7, 8


def make(variant: str, seed: int = 0, **options: float) -> GatedFusion:
    torch.manual_seed(seed)
    return GatedFusion(GEN, SEM, DIM, variant, grid=GRID, heads=2, **options).eval()


def streams(seed: int = 1, views: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gen = torch.randn(views, 6, GEN, generator=generator)
    return gen, torch.randn(views, 6, SEM, generator=generator)


# A slow plain twin: numpy float64, one token at a time, straight from the equations.


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def linear(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def project(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return linear(weights, f"{name}.2", gelu(linear(weights, f"{name}.0", x)))


def layer_norm(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    normed = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def fuse_by_hand(
    variant: str, w: dict[str, np.ndarray], gen: np.ndarray, sem: np.ndarray
) -> tuple[np.ndarray, np.ndarray | list[float] | None]:
    f_gen = project(w, "project_gen", gen) if "project_gen.0.weight" in w else None
    f_sem = project(w, "project_sem", sem) if "project_sem.0.weight" in w else None
    if variant in GATED:
        normed_gen = layer_norm(w, "mixer.norm_gen", f_gen)
        normed_sem = layer_norm(w, "mixer.norm_sem", f_sem)
        logit = linear(w, "mixer.gate", np.concatenate([normed_gen, normed_sem]))
        g = 1 / (1 + np.exp(-logit))
        if variant == "token_gated":
            return (1 - g) * normed_gen + g * normed_sem, g
        mixed = (1 - g) * f_gen + g * f_sem
        if variant == "token_gated_residual":
            mixed = f_sem + w["mixer.share"] * (mixed - f_sem)
        return mixed, g
    if variant == "weighted":
        w_sem, w_gen = w["mixer.weight_sem"], w["mixer.weight_gen"]
        return (w_sem * f_sem + w_gen * f_gen) / (w_sem + w_gen), [w_sem / (w_sem + w_gen)]
    if variant == "concat":
        both = [layer_norm(w, "mixer.norm_sem", f_sem), layer_norm(w, "mixer.norm_gen", f_gen)]
        return linear(w, "mixer.mlp.2", gelu(linear(w, "mixer.mlp.0", np.concatenate(both)))), None
    simple = {"add": lambda: (f_gen + f_sem, None), "semantic": lambda: (f_sem, [1.0])}
    return simple.get(variant, lambda: (f_gen, [0.0]))()


def shaken(fusion: GatedFusion) -> GatedFusion:
    """Move every parameter off its start, so that no zero bias or unit scale hides a mistake."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return fusion


@pytest.mark.parametrize("variant", [*GATED, "add", "weighted", "concat", "semantic", "generative"])
def test_each_variant_is_its_equation_worked_out_token_by_token(variant: str) -> None:
    fusion = shaken(make(variant))
    weights = {name: value.double().numpy() for name, value in fusion.state_dict().items()}
    gen, sem = streams()
    fused, gate = fusion(gen, sem)
    for view, token in np.ndindex(2, 6):
        want, want_gate = fuse_by_hand(
            variant, weights, gen[view, token].double().numpy(), sem[view, token].double().numpy()
        )
        np.testing.assert_allclose(fused[view, token].detach(), want, rtol=2e-5, atol=2e-5)
        if want_gate is None:
            assert gate is None
        else:
            np.testing.assert_allclose(gate[view, token].detach(), want_gate, rtol=1e-5, atol=1e-6)


def test_gate_of_two_numbers_by_hand() -> None:
    # Projectors made the identity on positive numbers far above GELU's bend (10 -> 10 to 1e-22).
    fusion = GatedFusion(2, 2, 2)
    state = fusion.state_dict()
    for name in ("project_gen", "project_sem"):
        for layer in ("0", "2"):
            state[f"{name}.{layer}.weight"] = torch.eye(2)
            state[f"{name}.{layer}.bias"] = torch.zeros(2)
    # LN([10, 14]) = [-1, 1] and LN([30, 20]) = [1, -1], so the logit is
    # 1 * -1 + 2 * 1 + 3 * 1 + 4 * -1 + 0.5 = 0.5, and g = sigmoid(0.5) = 0.622459.
    state["mixer.gate.weight"] = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    state["mixer.gate.bias"] = torch.tensor([0.5])
    fusion.load_state_dict(state)
    fused, gate = fusion(torch.tensor([[10.0, 14.0]]), torch.tensor([[30.0, 20.0]]))
    assert gate.item() == pytest.approx(0.622459, abs=1e-5)
    # 0.377541 * [10, 14] + 0.622459 * [30, 20] = [22.44918, 17.734754]: not the normed features.
    torch.testing.assert_close(fused, torch.tensor([[22.44918, 17.734754]]), rtol=1e-5, atol=1e-4)


def test_sequence_is_semantic_then_generative_and_blind_is_one_token() -> None:
    gen, sem = streams()
    fusion = make("sequence")
    fused, gate = fusion(gen, sem)
    assert gate is None
    torch.testing.assert_close(fused[:, :6], fusion.project_sem(sem))
    torch.testing.assert_close(fused[:, 6:], fusion.project_gen(gen))
    blind, _ = shaken(make("blind"))(gen, sem)
    assert (blind == blind[0, 0]).all()


@pytest.mark.parametrize("layers", [1, 3])
def test_cross_attention_is_softmax_over_the_other_streams_tokens(layers: int) -> None:
    fusion = shaken(make(f"cross_attention_{layers}"))
    w = {name: value.double().numpy() for name, value in fusion.state_dict().items()}
    gen, sem = streams(views=1)
    f_gen = np.stack([project(w, "project_gen", x) for x in gen[0].double().numpy()])
    tokens = np.stack([project(w, "project_sem", x) for x in sem[0].double().numpy()])
    # Quarter sin, cos of the row, quarter sin, cos of the column; rates 1 and 10000 ** -0.5.
    rates = [1.0, 0.01]
    positions = np.array(
        [
            [f(i * r) for i in (row, col) for f in (math.sin, math.cos) for r in rates]
            for row in range(2)
            for col in range(3)
        ]
    )
    for layer in range(layers):
        at = f"mixer.layers.{layer}"

        def normed(name: str, x: np.ndarray, at: str = at) -> np.ndarray:
            return np.stack([layer_norm(w, f"{at}.norm_{name}", row) for row in x])

        def dense(name: str, x: np.ndarray, at: str = at) -> np.ndarray:
            return np.stack([linear(w, f"{at}.{name}", row) for row in x])

        q = dense("attention.query", normed("query", tokens) + positions)
        k = dense("attention.key", normed("key", f_gen) + positions)
        v = dense("attention.value", normed("value", f_gen))
        heads = []
        for lane in (slice(0, 4), slice(4, 8)):
            score = np.exp(q[:, lane] @ k[:, lane].T / 2.0)  # sqrt of 4 channels a head
            heads.append(score / score.sum(axis=1, keepdims=True) @ v[:, lane])
        tokens = tokens + dense("attention.out", np.concatenate(heads, axis=1))
        hidden = dense("mlp.0", normed("mlp", tokens))
        tokens = tokens + dense("mlp.2", np.stack([gelu(row) for row in hidden]))
    fused, gate = fusion(gen, sem)
    assert gate is None
    np.testing.assert_allclose(fused[0].detach(), tokens, rtol=1e-4, atol=1e-4)


def test_cross_attention_does_not_look_at_tokens_without_a_feature() -> None:
    fusion = shaken(make("cross_attention_3"))
    gen, sem = streams()
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[:, 4:] = False
    other = gen.clone()
    other[:, 4:] = 100.0
    torch.testing.assert_close(
        fusion(gen, sem, valid=valid)[0], fusion(other, sem, valid=valid)[0], rtol=0, atol=0
    )
    nothing, _ = fusion(gen, sem, valid=torch.zeros(2, 6, dtype=torch.bool))
    assert nothing.isfinite().all()


@pytest.mark.parametrize("variant", [*GATED, "weighted"])
def test_gates_lie_between_zero_and_one(variant: str) -> None:
    fusion = shaken(make(variant))
    for scale in (1e-3, 1.0, 1e3):
        gen, sem = streams()
        _, gate = fusion(scale * gen, -scale * sem)
        assert gate.dtype == torch.float32
        assert ((gate > 0) & (gate < 1)).all()


@pytest.mark.parametrize("variant", ["adaptive", "channel"])
def test_forced_gate_gives_exactly_one_projected_stream(variant: str) -> None:
    fusion = shaken(make(variant))
    gen, sem = streams()
    for force, want in ((1.0, fusion.project_sem(sem)), (0.0, fusion.project_gen(gen))):
        fused, gate = fusion(gen, sem, force_gate=force)
        assert torch.equal(fused, want)
        assert (gate == force).all()


def test_forced_gate_of_the_released_variants_follows_their_own_mix() -> None:
    gen, sem = streams()
    normed = shaken(make("token_gated"))
    want = normed.mixer.norm_gen(normed.project_gen(gen))
    assert torch.equal(normed(gen, sem, force_gate=0.0)[0], want)
    residual = shaken(make("token_gated_residual"))
    assert torch.equal(residual(gen, sem, force_gate=1.0)[0], residual.project_sem(sem))
    r = residual.mixer.share
    want = (1 - r) * residual.project_sem(sem) + r * residual.project_gen(gen)
    torch.testing.assert_close(residual(gen, sem, force_gate=0.0)[0], want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter_and_only_the_streams_that_are_used(variant: str) -> None:
    fusion = make(variant).train()
    gen, sem = (x.requires_grad_() for x in streams())
    fused, _ = fusion(gen, sem, seeds=torch.arange(2))
    (fused * torch.randn(fused.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    dead = [n for n, p in fusion.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of the keys shifts every score of a query alike, and softmax does not see that.
    assert [name for name in dead if not name.endswith("attention.key.bias")] == []
    uses_gen = gen.grad is not None and bool(gen.grad.any())
    uses_sem = sem.grad is not None and bool(sem.grad.any())
    want = {"semantic": (False, True), "generative": (True, False), "blind": (False, False)}
    assert (uses_gen, uses_sem) == want.get(variant, (True, True))


def test_forced_gate_cuts_the_gate_and_the_other_stream_off_from_the_gradient() -> None:
    fusion = make("adaptive")
    gen, sem = streams()
    fusion(gen, sem, force_gate=1.0)[0].sum().backward()
    assert not any(p.grad.any() for p in fusion.project_gen.parameters())
    assert fusion.mixer.gate.weight.grad is None
    assert all(p.grad.any() for p in fusion.project_sem.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_stays_within_its_rounding_of_float32(variant: str) -> None:
    # bfloat16 keeps 8 bits: 2 ** -8 = 0.4 % a product; a handful in a row, so 3 % of the norm.
    fusion = make(variant)
    gen, sem = streams(views=16)
    fused, gate = fusion(gen, sem)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused_bf16, gate_bf16 = fusion(gen, sem)
    assert (fused_bf16.float() - fused).norm() <= 0.03 * fused.norm()
    if gate is not None:
        assert gate_bf16.dtype == torch.float32
        assert (gate_bf16 - gate).abs().max() <= 0.02


@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("token_gated", 21_505),  # the released code's own counts at width 3584
        ("cross_attention_1", 154_201_600),
        ("cross_attention_3", 3 * 154_201_600),
    ],
)
def test_size_of_a_mixer_is_the_released_one(variant: str, count: int) -> None:
    with torch.device("meta"):
        fusion = GatedFusion(1536, 1152, 3584, variant)
    assert sum(p.numel() for p in fusion.mixer.parameters()) == count
    assert sum(p.numel() for p in fusion.project_gen.parameters()) == 18_357_248


def test_dropout_belongs_to_the_sample_not_to_the_batch() -> None:
    fusion = make("cross_attention_3", dropout=0.5).train()
    gen, sem = streams(views=4)
    seeds = torch.tensor([11, 12, 13, 14])
    whole, _ = fusion(gen, sem, seeds=seeds)
    parts = [fusion(gen[i : i + 1], sem[i : i + 1], seeds=seeds[i : i + 1])[0] for i in range(4)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-5, atol=1e-6)
    other, _ = fusion(gen, sem, seeds=seeds + 1)
    assert not torch.allclose(whole, other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_save_and_load_give_the_same_fusion(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fusion = shaken(make(variant))
    fusion.save_pretrained(tmp_path)
    assert {"model.safetensors", "config.json"} <= set(os.listdir(tmp_path))
    again = GatedFusion.from_pretrained(tmp_path)
    gen, sem = streams()
    assert torch.equal(again(gen, sem)[0], fusion(gen, sem)[0])
    assert again.variant == variant
    assert capsys.readouterr().out == ""  # stdout holds a command's JSON


def test_load_refuses_weights_of_another_variant(tmp_path: Path) -> None:
    make("adaptive").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"adaptive"', '"concat"'))
    with pytest.raises(RuntimeError, match=r"(Missing|Unexpected) key"):
        GatedFusion.from_pretrained(tmp_path)


def released_state(prefix: str = "model.") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "generative_projector.0": (DIM, GEN),
        "generative_projector.2": (DIM, DIM),
        "mm_projector.0": (DIM, SEM),
        "mm_projector.2": (DIM, DIM),
        "feature_fusion.gate_projection.0": (1, 2 * DIM),
    }
    state = {}
    for name, shape in shapes.items():
        state[f"{prefix}{name}.weight"] = torch.randn(shape, generator=generator)
        state[f"{prefix}{name}.bias"] = torch.randn(shape[0], generator=generator)
    for name in ("norm1", "norm2"):
        for leaf in ("weight", "bias"):
            state[f"{prefix}feature_fusion.{name}.{leaf}"] = torch.randn(DIM, generator=generator)
    return {**state, "model.embed_tokens.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize("residual", [False, True])
def test_released_weights_compute_what_the_released_code_computes(residual: bool) -> None:
    state = released_state()
    if residual:
        state["model.feature_fusion.residual_scale"] = torch.tensor([0.2])
    gen, sem = streams()
    f = torch.nn.functional
    w = {name.removeprefix("model."): value for name, value in state.items()}

    def mlp(name: str, x: Tensor) -> Tensor:
        hidden = f.gelu(f.linear(x, w[f"{name}.0.weight"], w[f"{name}.0.bias"]))
        return f.linear(hidden, w[f"{name}.2.weight"], w[f"{name}.2.bias"])

    s, g = mlp("mm_projector", sem), mlp("generative_projector", gen)
    fusion = "feature_fusion"
    s1 = f.layer_norm(s, (DIM,), w[f"{fusion}.norm1.weight"], w[f"{fusion}.norm1.bias"])
    g2 = f.layer_norm(g, (DIM,), w[f"{fusion}.norm2.weight"], w[f"{fusion}.norm2.bias"])
    at = f"{fusion}.gate_projection.0"
    gate = torch.sigmoid(f.linear(torch.cat([s1, g2], -1), w[f"{at}.weight"], w[f"{at}.bias"]))
    want = s + 0.2 * (gate * s + (1 - gate) * g - s) if residual else gate * s1 + (1 - gate) * g2
    fused, our_gate = from_released(state)(gen, sem)
    torch.testing.assert_close(our_gate, gate, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused, want, rtol=1e-4, atol=1e-4)


def test_released_weights_are_read_from_sharded_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = released_state("base_model.model.model.")
    names = sorted(state)
    save_file({n: state[n] for n in names[:5]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({n: state[n] for n in names[5:]}, tmp_path / "model-00002-of-00002.safetensors")
    gen, sem = streams()
    assert torch.equal(from_released(tmp_path)(gen, sem)[0], from_released(state)(gen, sem)[0])


def test_released_weights_with_a_part_missing_or_unknown_say_which() -> None:
    state = released_state()
    lacking = {name: value for name, value in state.items() if "mm_projector" not in name}
    with pytest.raises(ValueError, match=r"lacks mm_projector\.0\.bias.*LoRA"):
        from_released(lacking)
    with pytest.raises(ValueError, match=r"do not know feature_fusion\.cross\.weight"):
        from_released({**state, "model.feature_fusion.cross.weight": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match=r"neither a \.safetensors file nor a folder"):
        from_released("/nowhere")


def test_wrong_use_says_what_to_do() -> None:
    gen, sem = streams()
    with pytest.raises(ValueError, match=r"takes 5 generative and 7 semantic.*swapped"):
        make("adaptive")(sem, gen)
    with pytest.raises(ValueError, match=r"same views and tokens, got \(2, 6\).*\(2, 5\)"):
        make("adaptive")._check(gen, sem[:, :5], None)  # the annotations' hook would be first
    with pytest.raises(ValueError, match=r"add has no gate to force; adaptive"):
        make("add")(gen, sem, force_gate=1.0)
    with pytest.raises(ValueError, match=r"force_gate is a weight in \[0, 1\], got 2"):
        make("adaptive")(gen, sem, force_gate=2.0)
    with pytest.raises(ValueError, match=r"variant must be one of .* got 'gated'"):
        make("gated")
    with pytest.raises(ValueError, match=r"built for 6 tokens a view, got 5; pass grid"):
        make("cross_attention_1")(gen[:, :5], sem[:, :5])
    with pytest.raises(ValueError, match=r"heads must divide the width, got 3 heads"):
        GatedFusion(GEN, SEM, DIM, "cross_attention_1", heads=3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bfloat16_fusion_returns_bfloat16_tokens_and_a_float32_gate(variant: str) -> None:
    fusion = GatedFusion(6, 5, 8, variant, grid=(2, 2), heads=2).bfloat16()
    gen, sem = torch.randn(2, 4, 6).bfloat16(), torch.randn(2, 4, 5).bfloat16()
    fused, gate = fusion(gen, sem)
    assert fused.dtype == torch.bfloat16
    assert gate is None or gate.dtype == torch.float32


@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_of_a_token_that_is_not_valid_does_not_spread(variant: str) -> None:
    fusion = GatedFusion(6, 5, 8, variant, grid=(2, 2), heads=2)
    gen, sem = torch.randn(2, 4, 6), torch.randn(2, 4, 5)
    valid = torch.tensor([[True, False, True, True]] * 2)
    gen[:, 1], sem[:, 1] = torch.nan, torch.nan
    fused, _ = fusion(gen, sem, valid=valid)
    assert fused.isfinite().all()
    fused.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


def test_gates_lie_inside_of_0_and_1_and_a_forced_one_is_exact() -> None:
    fusion = GatedFusion(4, 4, 8, "adaptive")
    tokens = torch.randn(1, 3, 4)
    for bias in (200.0, -200.0):
        torch.nn.init.constant_(fusion.mixer.gate.bias, bias)
        _, gate = fusion(tokens, tokens)
        assert ((gate > 0) & (gate < 1)).all()
    for weight in (0.0, 1.0):
        assert (fusion(tokens, tokens, force_gate=weight)[1] == weight).all()
