"""What the networks are trained for, and by what steps: against numbers worked out elsewhere."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import evaluate
import GAN
from conftest import ROOT, TINY, Run
from objectives import (
    OBJECTIVES,
    Schedule,
    choose,
    decayed,
    hinge_d,
    one_centred,
    relativistic_d,
    relativistic_g,
    smooth_bce_d,
    wasserstein_d,
    wasserstein_g,
    zero_centred,
)
from test_evaluate import row
from test_networks import CPU, SIZES, networks, shapes
from test_run import checkpoint, rows, same

REAL, FAKE = torch.tensor([2.0, -0.5, 0.5]), torch.tensor([-3.0, 1.0, 0.0])
log_sigmoid = F.logsigmoid  # written otherwise in GAN.py


@pytest.mark.parametrize(
    ("loss", "of_d", "of_g"),
    [
        ("hinge", (0 + 1.5 + 0.5) / 3 + (0 + 2 + 1) / 3, 2 / 3),
        ("wgan-gp", -2 / 3 - 2 / 3, 2 / 3),
        ("rpgan", float(-log_sigmoid(REAL - FAKE).mean()), float(-log_sigmoid(FAKE - REAL).mean())),
        (
            "bce",
            float(-log_sigmoid(REAL).mean() - log_sigmoid(-FAKE).mean()),
            float(-log_sigmoid(FAKE).mean()),
        ),
    ],
)
def test_losses(loss: str, of_d: float, of_g: float) -> None:
    d, g, *_ = OBJECTIVES[loss]
    assert d(REAL, FAKE).item() == pytest.approx(of_d, rel=1e-6)
    more = [REAL] if loss == "rpgan" else []
    assert g(FAKE, *more).item() == pytest.approx(of_g, rel=1e-6)


def test_gradients_of_losses() -> None:
    real, fake = (x.clone().requires_grad_() for x in (REAL, FAKE))

    def gradients(value: Tensor) -> list[Any]:
        return list(torch.autograd.grad(value, (real, fake), allow_unused=True))

    by_real, by_fake = gradients(hinge_d(real, fake))
    assert torch.equal(by_real * 3, torch.tensor([0.0, -1, -1]))  # none beyond the margin
    assert torch.equal(by_fake * 3, torch.tensor([0.0, 1, 1]))
    by_real, by_fake = gradients(wasserstein_d(real, fake))
    assert torch.equal(by_real * 3, -torch.ones(3)) and torch.equal(by_fake, -by_real)
    assert torch.equal(gradients(wasserstein_g(fake))[1] * 3, -torch.ones(3))
    by_real, by_fake = gradients(relativistic_d(real, fake))
    torch.testing.assert_close(by_real * 3, -(FAKE - REAL).sigmoid())
    assert torch.equal(by_fake, -by_real)
    by_real, by_fake = gradients(relativistic_g(fake, real))
    torch.testing.assert_close(by_fake * 3, -(REAL - FAKE).sigmoid())
    assert torch.equal(by_fake, -by_real)
    far = torch.tensor([200.0])
    assert relativistic_d(-far, far).item() == 400 == relativistic_g(-far, far).item()


def test_label_smoothing_is_binary_cross_entropy_with_smaller_labels() -> None:
    expected = F.binary_cross_entropy(REAL.sigmoid(), torch.full((3,), 0.9))
    expected += F.binary_cross_entropy(FAKE.sigmoid(), torch.zeros(3))
    torch.testing.assert_close(smooth_bce_d(REAL, FAKE, 0.1), expected)


class Linear(nn.Module):
    """D(x) = w·x, whose gradient is w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w * x).sum((1, 2, 3))


class Bowl(nn.Module):
    """D(x) = a/2 |x|², whose gradient is a·x."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.a / 2 * x.square().sum((1, 2, 3))


def test_penalties_of_discriminators_with_known_gradients() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 5, 3, 4, 4)
    linear, bowl = Linear(), Bowl()
    norm = float(linear.w.detach().norm())
    assert zero_centred(linear, real).item() == pytest.approx(norm**2 / 2, rel=1e-5)
    assert one_centred(linear, real, fake).item() == pytest.approx((norm - 1) ** 2, rel=1e-5)
    (by_w,) = torch.autograd.grad(one_centred(linear, real, fake), linear.w)
    torch.testing.assert_close(by_w, 2 * (norm - 1) * linear.w.detach() / norm)
    squares = real.square().sum((1, 2, 3)).mean()
    penalty = zero_centred(bowl, real)
    torch.testing.assert_close(penalty, 1.5**2 * squares / 2)
    torch.testing.assert_close(torch.autograd.grad(penalty, bowl.a)[0], 1.5 * squares)
    # Between a picture and itself there is no other: |∇D| is known there.
    norms = 1.5 * real.square().sum((1, 2, 3)).sqrt()
    torch.testing.assert_close(one_centred(bowl, real, real), (norms - 1).square().mean())
    assert torch.isfinite(one_centred(bowl, real * 0, real * 0))  # where the slope vanishes
    # Between 0 and x, |∇D| is 1.5 t |x| for t from 0 to 1: on average over t, less than at x.
    torch.manual_seed(1)
    many = real[:1].expand(4000, -1, -1, -1)
    x = 1.5 * float(many[0].norm())
    expected = x**2 / 3 - x + 1  # of (t·x - 1)², over t
    found = one_centred(bowl, many, many * 0).item()
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("loss", ["bce", "bce-sum", "hinge", "wgan-gp", "rpgan"])
def test_steps(loss: str) -> None:
    gen, dis, pictures, noise = networks()
    real, fake = GAN.to_real(pictures, CPU), copy.deepcopy(gen)(noise).detach()
    words = {"loss": loss, "gp": 10.0, "r1": 0.5, "r2": 0.25, "gp_every": 3}
    aim = choose(words | {"label_smoothing": 0.0}, batch=6)
    d_loss, g_loss, *_ = aim
    for penalties in (0, 3):
        plain, trained = copy.deepcopy(dis), copy.deepcopy(dis)
        a, b = plain(real), plain(fake)
        value = d_loss(a, b)
        total = value * 3 if loss == "bce-sum" else value  # six pictures, two halves
        torch.manual_seed(5)
        if penalties and loss == "wgan-gp":
            total = total + 30 * one_centred(plain, real, fake)
        if penalties:
            total = total + 1.5 * zero_centred(plain, real)
            total = total + 0.75 * zero_centred(plain, fake)
        total.backward()
        torch.manual_seed(5)
        opt = torch.optim.SGD(trained.parameters(), lr=0.01)
        this = aim if penalties else aim._replace(penalty=None)
        found = GAN.d_step(gen, trained, opt, CPU, real, noise, this)
        halves = 1 if loss in ("wgan-gp", "rpgan") else 2
        probable = loss.startswith("bce")
        answers = [(x.sigmoid() if probable else x).mean().item() for x in (a, b)]
        assert found.tolist() == pytest.approx([value.item() / halves, *answers], rel=1e-4)
        for after, before in zip(trained.parameters(), plain.parameters(), strict=True):
            assert before.grad is not None
            torch.testing.assert_close(after.detach(), before.detach() - 0.01 * before.grad)
    plain_gen, more = copy.deepcopy(gen), [real] if loss == "rpgan" else []
    value = g_loss(dis(plain_gen(noise)), *[dis(x) for x in more])
    (value * 6 if loss == "bce-sum" else value).backward()
    opt = torch.optim.SGD(gen.parameters(), lr=0.01)
    found = GAN.g_step(gen, dis, opt, CPU, noise, *more, aim=aim)
    assert found.item() == pytest.approx(value.item(), rel=1e-5)
    for after, before in zip(gen.parameters(), plain_gen.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after.detach(), before.detach() - 0.01 * before.grad)


def test_instance_noise_is_seen_by_the_discriminator_alone() -> None:
    schedule = Schedule({"lr_decay": "none", "instance_noise": 0.4}, {}, CPU.device)
    pictures = torch.zeros(50, 3, 32, 32)
    for done, level in ((0, 0.4), (0.25, 0.3), (1, 0)):
        schedule(done)
        assert schedule.noisy(pictures).std().item() == pytest.approx(level, rel=0.02)
    assert not pictures.any() and GAN.BCE.seen(pictures) is pictures


def test_a_schedule_changes_rates_where_they_are() -> None:
    """A CUDA graph reads a rate from the tensor that it was made with."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    rate = torch.tensor(1.0)
    opts: dict[str, torch.optim.Optimizer] = {
        "lr_g": torch.optim.Adam(weights[:1], lr=rate, capturable=True),
        "lr_d": torch.optim.SGD(weights[1:], lr=2.0),
    }
    words = {"lr_decay": "linear", "instance_noise": 0.0, "lr_g": 1.0, "lr_d": 2.0}
    Schedule(words, opts, CPU.device)(0.75)
    assert rate.item() == 0.25 and opts["lr_g"].param_groups[0]["lr"] is rate
    assert opts["lr_d"].param_groups[0]["lr"] == 0.5


def test_layers_of_five_by_five() -> None:
    gen, dis = GAN.Generator(128, 100, 8, 5), GAN.Discriminator(128, 8, kernel=5)
    down = [(8, 16, 5, 2, 2), (16, 32, 5, 2, 2), (32, 64, 5, 2, 2), (64, 128, 5, 2, 2)]
    assert shapes(dis) == [(3, 8, 5, 2, 2), *down, (128, 1, 4, 1, 0)]  # one layer more than at 64
    assert len(shapes(GAN.Discriminator(64, 8, kernel=5))) == 5
    assert [s[2:] for s in shapes(gen)] == [(4, 1, 0), *[(5, 2, 2)] * 5]
    for size in SIZES:
        gen, dis = GAN.Generator(size, 7, 2, 5), GAN.Discriminator(size, 2, kernel=5)
        pictures = gen(torch.randn(3, 7, 1, 1))
        assert pictures.shape == (3, 3, size, size) and dis(pictures).shape == (3,)


def test_no_biases_dropout_and_spectral_norm() -> None:
    gen, dis = GAN.Generator(32, 7, 4, bias=False), GAN.Discriminator(32, 4, bias=False)
    layers = [m for m in [*gen, *dis] if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 8 and all(m.bias is None for m in layers)
    names = [type(m).__name__ for m in GAN.Discriminator(32, 4, "batch", dropout=0.5)]
    middle = ["Conv2d", "BatchNorm2d", "LeakyReLU", "Dropout2d"]
    assert names == ["Conv2d", "LeakyReLU", "Dropout2d", *middle * 2, "Conv2d", "Flatten"]
    torch.manual_seed(0)
    dis = GAN.Discriminator(32, 8, "spectral").apply(GAN.init_dcgan)
    x = torch.randn(2, 3, 32, 32)
    for _ in range(50):  # each time, the estimate of the singular vectors gets better
        dis(x)
    for module in dis:
        if isinstance(module, nn.Conv2d):
            inner: Any = module
            assert inner.parametrizations.weight.original.std().item() < 0.03  # the DCGAN paper's
            largest = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
            assert largest.item() == pytest.approx(1, rel=0.02)


def test_decay_of_rates() -> None:
    for kind, middle in (("none", 1), ("linear", 0.5), ("cosine", 0.5)):
        start, half, end = (decayed(kind, done) for done in (0, 0.5, 1))
        assert (start, half) == pytest.approx((1, middle))
        assert end == pytest.approx(0 if kind != "none" else 1)
    assert decayed("cosine", 1 / 3) == pytest.approx(0.75)


def test_rates_and_their_rules_in_a_run(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=2", "--lr_g=1e-3", "--lr_d=2e-3", "--beta1_d=0.1"]
    words += ["--lr_decay=linear", "--optim_g=sgd", "--weight_decay_d=0.25", "--beta2_d=0.9"]
    gan(*words)  # ten steps
    g, d = (
        checkpoint(tmp_path / "img")["parts"][name]["param_groups"][0]
        for name in ("opt_g", "opt_d")
    )
    assert g["lr"] == pytest.approx(1e-4) and d["lr"] == pytest.approx(2e-4)  # of the last step
    assert d["betas"] == (0.1, 0.9) and d["weight_decay"] == 0.25
    assert "betas" not in g and g["momentum"] == 0


def test_d_turns_with_penalties(gan: Run, faces: Path, tmp_path: Path) -> None:
    """Lazily taken, penalties change only every k-th turn: with few turns there is none."""
    words = [f"--data_dir={faces}", "--n_epoch=1", "--r1=5"]
    states = []
    for name, more in (("a", "--gp_every=5"), ("b", "--gp_every=6"), ("c", "--gp_every=1")):
        gan(*words, more, f"--img_dir={tmp_path / name}")
        states.append(checkpoint(tmp_path / name)["parts"]["dis"])
    gan(*words[:2], f"--img_dir={tmp_path / 'none'}")
    assert same(states[1], checkpoint(tmp_path / "none")["parts"]["dis"])  # five turns
    assert not same(states[0], states[1]) and not same(states[0], states[2])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--loss=hinge --label_smoothing=0.1", "label_smoothing is for loss=bce"),
        ("--gp_every=4", "gp_every is for penalties"),
        ("--loss=wgan-gp --gp=0", "loss=wgan-gp needs gp above 0"),
        ("--loss=rpgan", "loss=rpgan needs r1 or r2 above 0"),
        ("--kernel=3", "kernel must be one of 4, 5"),
        ("--r1=-1", "r1 must be a number from 0 up"),
        ("--dis_dropout=1", "dis_dropout must be a number from 0 to below 1"),
        ("--beta1=0.5", "is it beta1_"),
    ],
)
def test_settings_that_do_not_fit(gan: Run, faces: Path, words: str, expected: str) -> None:
    for more in ("", "--dry_run"):
        said = gan(f"--data_dir={faces}", *words.split(), *more.split(), code=1).stderr
        assert expected in said and said.startswith("GAN.py: ")


def test_other_optimisers_under_a_checkpoint(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=1"]
    gan(*words)
    for word in ("--optim_d=sgd", "--bias=False", "--kernel=5"):
        assert "other networks or optimisers" in gan(*words, word, code=1).stderr


def test_deterministic(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=2", "--deterministic", "--dis_dropout=0.1"]
    for name in "ab":
        gan(*words, f"--img_dir={tmp_path / name}")
    assert same(*(checkpoint(tmp_path / name)["parts"] for name in "ab"))


def test_a_score_changes_nothing_of_a_run_with_dropout(
    gan: Run, faces: Path, tmp_path: Path
) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=3", "--dis_dropout=0.3", "--instance_noise=0.1"]
    gan(*words, f"--img_dir={tmp_path / 'plain'}")
    gan(*words, "--score_by=lite0", "--score_every=1", f"--img_dir={tmp_path / 'scored'}")
    assert same(*(checkpoint(tmp_path / name)["parts"] for name in ("plain", "scored")))


def test_losses_without_probabilities_are_not_judged_by_them() -> None:
    won: dict[str, float] = {"d_real": 1, "d_fake": 0, "loss_d": -200, "loss_g": -0.5}
    history = [row(100 * i, 2000 + i % 7, **won) for i in range(200)]
    found = [evaluate.diagnose(history[:i], 10, "wgan-gp").keys() for i in range(1, 200)]
    assert not any(found[:100]) and found[-1] == {"nothing improves"}
    history = [row(100 * i, 2000 * 0.9**i, loss_g=500) for i in range(20)]
    assert not evaluate.diagnose(history, 10, "wgan-gp")
    assert evaluate.diagnose(history, 10, "rpgan").keys() == {"diverged"}


RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_to_its_end(gan: Run, faces: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    gan(f"recipes/{name}.py", *TINY, f"--data_dir={faces}", f"--img_dir={out}", "--n_epoch=2")
    history = rows(out)
    assert len(history) == 2
    for one in history:
        assert all(math.isfinite(float(one[key])) for key in ("loss_d", "d_real", "d_fake"))
    assert math.isfinite(float(history[-1]["loss_g"])) and (out / "epoch-2.png").exists()
