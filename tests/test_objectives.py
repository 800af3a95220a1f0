"""What the networks are trained for, and by what steps: against numbers worked out elsewhere."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import evaluate
import forked
import GAN
import settings
from conftest import ROOT, TINY, Run
from networks import init_dcgan
from objectives import (
    OBJECTIVES,
    Moved,
    Schedule,
    augmented,
    choose,
    decayed,
    hinge_d,
    one_centred,
    recoloured,
    relativistic_d,
    relativistic_g,
    shifted_and_cut,
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
    real = REAL.clone().requires_grad_()
    (by_real,) = torch.autograd.grad(smooth_bce_d(real, FAKE, 0.1), real)
    torch.testing.assert_close(by_real * 3, REAL.sigmoid() - 0.9)


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
    real = GAN.to_real(pictures, CPU)
    drawn = copy.deepcopy(gen)(noise).detach()
    seen, fake = real / 2, drawn / 2
    words = {"loss": loss, "gp": 10.0, "r1": 0.5, "r2": 0.25, "gp_every": 3}
    aim = choose(GAN.settings_now() | words, batch=6)._replace(seen=lambda x: x / 2)
    d_loss, g_loss, *_ = aim
    for penalties in (0, 3):
        plain, trained = copy.deepcopy(dis), copy.deepcopy(dis)
        a, b = plain(seen), plain(fake)
        total = value = d_loss(a, b)
        torch.manual_seed(5)
        if penalties:
            total = total + 30 * one_centred(plain, seen, fake)
            total = total + 1.5 * zero_centred(plain, seen)
            total = total + 0.75 * zero_centred(plain, fake)
        if loss == "bce-sum":  # as the report has it; penalties are summed in the same way
            ones, bce = torch.ones(6), F.binary_cross_entropy_with_logits
            sums = bce(a, ones, reduction="sum") + bce(b, 0 * ones, reduction="sum")
            total = sums / 2 + 3 * (total - value)
        total.backward()
        torch.manual_seed(5)
        opt = torch.optim.SGD(trained.parameters(), lr=0.01)
        this = aim if penalties else aim._replace(penalty=None)
        found, logits = GAN.d_step(trained, opt, CPU, real, drawn, this)
        torch.testing.assert_close(logits, a.detach())
        halves = 1 if loss in ("wgan-gp", "rpgan") else 2
        probable = loss.startswith("bce")
        answers = [(x.sigmoid() if probable else x).mean().item() for x in (a, b)]
        assert found.tolist() == pytest.approx([value.item() / halves, *answers], rel=1e-4)
        for after, before in zip(trained.parameters(), plain.parameters(), strict=True):
            assert before.grad is not None
            torch.testing.assert_close(after.detach(), before.detach() - 0.01 * before.grad)
    plain_gen, more = copy.deepcopy(gen), [dis(seen).detach()] if loss == "rpgan" else []
    value = g_loss(dis(plain_gen(noise) / 2), *more)
    (value * 6 if loss == "bce-sum" else value).backward()
    opt = torch.optim.SGD(gen.parameters(), lr=0.01)
    found = GAN.g_step(dis, opt, CPU, gen(noise), *more, aim=aim)
    assert found.item() == pytest.approx(value.item(), rel=1e-5)
    for after, before in zip(gen.parameters(), plain_gen.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after.detach(), before.detach() - 0.01 * before.grad)


def settings_of(**changes: Any) -> dict[str, Any]:
    sizes = {"image_size": 32, "noise_size": 5, "gen_fm": 3, "dis_fm": 4}
    return GAN.settings_now() | sizes | changes


def test_a_beta_may_be_an_integer() -> None:
    parts = GAN.build(settings_of(beta1_g=0, beta1_d=0), CPU)  # as a recipe or an editor writes it
    assert parts["opt_g"].param_groups[0]["betas"] == (0.0, 0.999)


def test_what_the_settings_make() -> None:
    numbers = {"lr_g": 0.1, "lr_d": 0.2, "beta1_g": 0.3, "beta1_d": 0.4, "beta2_g": 0.5}
    numbers |= {"beta2_d": 0.6, "weight_decay_g": 0.7, "weight_decay_d": 0.8}
    torch.manual_seed(0)
    shape = {"kernel": 5, "bias": False, "dis_norm": "batch", "dis_dropout": 0.25}
    parts = GAN.build(settings_of(**shape, **numbers, init="dcgan"), CPU)
    assert shapes(parts["gen"])[1][2:] == (5, 2, 2) == shapes(parts["dis"])[0][2:]
    assert shapes(parts["gen"])[0][:2] == (5, 12) and shapes(parts["dis"])[-1][:2] == (16, 1)
    for net in (parts["gen"], parts["dis"]):
        for module in net:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert module.bias is None
                if module.weight.numel() > 100:
                    assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert [m.p for m in parts["dis"] if isinstance(m, nn.Dropout2d)] == [0.25] * 3
    assert sum(isinstance(m, nn.BatchNorm2d) for m in parts["dis"]) == 2
    for opt, n in (("opt_g", 0), ("opt_d", 1)):
        (group,) = parts[opt].param_groups
        assert isinstance(parts[opt], torch.optim.Adam)
        assert group["betas"] == ((0.3, 0.5), (0.4, 0.6))[n]
        assert (group["lr"], group["weight_decay"]) == ((0.1, 0.7), (0.2, 0.8))[n]
        assert group["params"] == list(parts[("gen", "dis")[n]].parameters())
    assert not any(weight.requires_grad for weight in parts["average"].parameters())
    parts = GAN.build(settings_of(optim_d="sgd", dis_norm="spectral"), CPU)
    assert type(parts["opt_g"]) is torch.optim.Adam and type(parts["opt_d"]) is torch.optim.SGD
    assert parts["dis"][0].parametrizations.weight and parts["gen"][0].bias is not None
    assert parts["dis"][0].parametrizations.weight.original.std() > 0.05  # PyTorch's own


def test_turns_take_pictures_as_they_are_read() -> None:
    _, _, pictures, noise = networks()
    mirrored = torch.tensor([True, False, True, True, False, False])
    flipped = torch.where(mirrored.view(-1, 1, 1, 1), pictures.flip(2), pictures)
    results = []
    for words in ((pictures, mirrored), (flipped,)):
        torch.manual_seed(0)
        settings = settings_of(loss="rpgan", r1=1.0)
        parts = GAN.build(settings, CPU)
        steps = GAN.build_steps(parts, CPU, choose(settings, 6))
        results.append([step(noise, *words) for step in steps.values()])
        results[-1] += [
            weight.detach() for net in ("gen", "dis") for weight in parts[net].parameters()
        ]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(flipped, pictures)


@pytest.mark.parametrize("loss", ["bce", "rpgan"])
def test_who_has_a_turn(loss: str) -> None:
    """Every step changes what it says, by d_step() and g_step() on pictures drawn once."""
    _, _, pictures, noise = networks()
    settings = settings_of(loss=loss, r1=1.0)
    aim = choose(settings, 6)
    for turns in itertools.product((False, True), repeat=3):
        d, penalties, g = turns
        torch.manual_seed(0)
        parts = GAN.build(settings, CPU)
        gen, dis, _, opt_g, opt_d, _ = copy.deepcopy(list(parts.values()))
        given = [pictures] if d or aim.paired else []
        found = GAN.build_steps(parts, CPU, aim)[turns](noise, *given)
        real, expected = GAN.to_real(pictures, CPU), torch.zeros(4)
        fake, logits = gen(noise), dis(real)
        if d:
            this = aim if penalties else aim._replace(penalty=None)
            expected[:3], logits = GAN.d_step(dis, opt_d, CPU, real, fake.detach(), this)
        if g:
            more = [logits.detach()] if loss == "rpgan" else []
            expected[3] = GAN.g_step(dis, opt_g, CPU, fake, *more, aim=aim)
        torch.testing.assert_close(found, expected)
        for net, name, turn in ((gen, "gen", g), (dis, "dis", d)):
            assert any(weight.grad is not None for weight in parts[name].parameters()) == turn
            for one, other in zip(parts[name].parameters(), net.parameters(), strict=True):
                torch.testing.assert_close(one, other)


def test_instance_noise_is_seen_by_the_discriminator_alone() -> None:
    settings = GAN.settings_now() | {"instance_noise": 0.4}
    schedule = Schedule(settings, GAN.build(settings, CPU))
    pictures = torch.zeros(50, 3, 32, 32)
    for done, level in ((0, 0.4), (0.25, 0.3), (1, 0)):
        schedule(done)
        assert schedule.noisy(pictures).std().item() == pytest.approx(level, rel=0.02)
    assert not pictures.any() and GAN.BCE.seen(pictures) is pictures


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pictures_are_shifted(dtype: torch.dtype) -> None:
    """By so many pixels as are asked for, with grey coming in; nothing else changes."""
    torch.manual_seed(0)
    side = 32
    x = torch.rand(81, 3, side, side).sub(0.5).to(dtype)
    by = torch.cartesian_prod(*[torch.arange(-4, 5)] * 2)
    for layout in (torch.contiguous_format, torch.channels_last):
        nowhere = torch.full((2, 81, 1), side)
        y = Moved.apply(x.contiguous(memory_format=layout), by.T[..., None], nowhere)
        for before, (down, across), after in zip(F.pad(x, [4] * 4), 4 - by, y, strict=True):
            assert torch.equal(before[:, down : down + side, across : across + side], after)


def test_pictures_move_and_a_square_is_cut_out() -> None:
    """The whole of what they may move by, and squares wherever their centres lie in the picture."""
    torch.manual_seed(0)
    side, sizes, shifts = 32, set(), set()
    x = torch.rand(600, 3, side, side).add(0.5)
    for before, after in zip(F.pad(x, [4] * 4), shifted_and_cut(x), strict=True):
        hole = after == 0
        assert torch.equal(hole[0], hole[1]) and torch.equal(hole[0], hole[2])
        ways = []
        for down, across in itertools.product(range(9), repeat=2):
            there = before[:, down : down + side, across : across + side]
            if torch.equal(there[~hole], after[~hole]):
                ways.append((down, across, hole[0] & (there[0] != 0)))
        ((down, across, hole_inside),) = ways
        shifts.add((down, across))
        rows, columns = hole_inside.any(1).nonzero(), hole_inside.any(0).nonzero()
        height, width = (int(one.max() - one.min()) + 1 for one in (rows, columns))
        assert hole_inside.sum() == height * width  # a square, or what is left of it
        for n, place, by in ((height, rows, down), (width, columns, across)):
            least, most = max(0, 4 - by), side - 1 - max(0, by - 4)  # where there is no grey yet
            assert n == 16 or (4 <= n < 16 and (place.min() == least or place.max() == most))
        sizes.add((height, width))
    assert (16, 16) in sizes and len(sizes) > 10
    assert len(shifts) == 81


def test_colours_change() -> None:
    """What a picture's mean, greys and colours become, each times or plus one number."""
    torch.manual_seed(0)
    x = torch.rand(500, 3, 8, 8, dtype=torch.float64)
    y = recoloured(x)
    dims = (1, 2, 3)
    brightness = y.mean(dims) - x.mean(dims)  # the two others keep the mean
    contrast = y.mean(1).flatten(1).std(1) / x.mean(1).flatten(1).std(1)  # nor do colours matter
    colours = [p - p.mean(1, keepdim=True) for p in (x, y)]
    saturation = (colours[1] * colours[0]).sum(dims) / colours[0].square().sum(dims) / contrast
    ranges = (brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0, 2)
    for values, least, most in ranges:
        assert least - 1e-6 <= values.min() < values.max() <= most + 1e-6
        assert values.mean().item() == pytest.approx((least + most) / 2, abs=0.1)
        assert values.std().item() == pytest.approx((most - least) / math.sqrt(12), rel=0.1)
    grey = x.mean(1, keepdim=True) + saturation.view(-1, 1, 1, 1) * colours[0]
    mean = x.mean(dims, keepdim=True)
    expected = mean + contrast.view(-1, 1, 1, 1) * (grey - mean) + brightness.view(-1, 1, 1, 1)
    torch.testing.assert_close(y, expected)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        torch.rand(500, 3, 8, 8, dtype=torch.float64)
        rough = recoloured(x.bfloat16().contiguous(memory_format=layout))
        assert rough.dtype == torch.bfloat16
        torch.testing.assert_close(rough.double(), y, rtol=0, atol=0.04)  # up to 2.5: 1.6 %


def test_augmented_pictures_have_a_gradient() -> None:
    """Of a pixel that moved, where it went: numerically, with the same random numbers."""
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def same_each_time(pictures: Tensor) -> Tensor:
        torch.manual_seed(0)
        return augmented(pictures)

    assert torch.autograd.gradcheck(same_each_time, x)
    assert torch.autograd.gradgradcheck(same_each_time, x)
    rough = same_each_time(x.bfloat16())
    last = x.float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):  # as the networks want it
        assert same_each_time(last).is_contiguous(memory_format=torch.channels_last)
    assert rough.dtype == torch.bfloat16 and rough.shape == x.shape
    assert (same_each_time(x) != x).any()
    words = GAN.settings_now() | {"augment": True, "instance_noise": 0.1}
    torch.manual_seed(0)
    assert torch.equal(choose(words, 1).seen(x), same_each_time(x))
    aim = choose(words, 1, GAN.build(words, CPU))
    torch.manual_seed(0)
    noisy = aim.seen(x)
    assert (noisy - same_each_time(x)).std().item() == pytest.approx(0.1, rel=0.2)


def test_a_schedule_changes_rates_where_they_are() -> None:
    """A CUDA graph reads a rate from the tensor that it was made with."""
    settings = GAN.settings_now() | {"lr_decay": "linear", "lr_g": 1.0, "lr_d": 2.0}
    parts = GAN.build(settings, CPU)
    of_g, of_d = (parts[name].param_groups[0] for name in ("opt_g", "opt_d"))
    of_g["lr"] = rate = torch.tensor(1.0)
    Schedule(settings, parts)(0.75)
    assert rate.item() == 0.25 and of_g["lr"] is rate
    assert of_d["lr"] == 0.5


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_rates_by_fan_in(norm: str) -> None:
    """Adam's first step has the length of the rate."""
    about = {"lr_by_fan_in": True, "lr_d": 1e-3, "dis_fm": 4, "gen_fm": 4, "dis_norm": norm}
    parts = GAN.build(GAN.settings_now() | about, CPU)
    before = copy.deepcopy(parts["dis"])
    parts["dis"](torch.randn(8, 3, 96, 96)).square().mean().backward()
    parts["opt_d"].step()
    fan_ins = set()
    for old, new in zip(before.parameters(), parts["dis"].parameters(), strict=True):
        fan_in = old.shape[1:].numel() if old.ndim == 4 else 400
        assert (new - old).abs().max().item() == pytest.approx(0.02 / fan_in**0.5, rel=0.01)
        fan_ins.add(fan_in)
    assert fan_ins == {3 * 25, 4 * 16, 8 * 16, 16 * 16, 32 * 16, 400}
    shares = [group["share"] for group in parts["opt_d"].param_groups]
    assert len(shares) == 6 and len(parts["opt_g"].param_groups) == 1
    Schedule(GAN.settings_now() | about | {"lr_decay": "linear"}, parts)(0.75)
    rates = [group["lr"] for group in parts["opt_d"].param_groups]
    assert rates == pytest.approx([2.5e-4 * share for share in shares])


def test_penalties_that_grow() -> None:
    words = GAN.settings_now() | {"r1": 2.0, "gp_every": 3, "gp_growth": 9.0, "gen_fm": 2}
    parts = GAN.build(words, CPU)
    aim, plain = choose(words, 1, parts), choose(words | {"gp_growth": 1.0}, 1, parts)
    assert aim.penalty and plain.penalty
    x = torch.randn(2, 3, 96, 96)
    once = plain.penalty(parts["dis"], x, x).item()
    assert once == pytest.approx(6 * zero_centred(parts["dis"], x).item())
    for done, times in ((0, 1), (0.5, 3), (1, 9)):
        aim.schedule(done)
        assert aim.penalty(parts["dis"], x, x).item() == pytest.approx(times * once)


@pytest.mark.parametrize("loss", ["rpgan", "bce", "bce-sum", "hinge"])
def test_penalties_that_hold_the_discriminator(loss: str) -> None:
    """Times exp(0.02 (gp_aim - loss_d)) each turn, between what gp_growth asks for and 10,000."""
    words = GAN.settings_now() | {"loss": loss, "r1": 2.0, "gp_aim": 0.6, "gp_growth": 9.0}
    parts = GAN.build(words | {"gen_fm": 2}, CPU)
    weight = torch.tensor(5.0)
    plain = choose(words | {"gp_growth": 1.0, "gp_aim": 0.0}, 1)
    aim = choose(words, 1, parts | {"gp_weight": weight})
    x = torch.randn(2, 3, 96, 96)
    assert aim.penalty and plain.penalty
    once = plain.penalty(parts["dis"], x, x).item()
    won, lost = (torch.full((3,), 4.0), torch.full((3,), -4.0)), (torch.zeros(3), torch.ones(3))
    for done, logits, least in ((0, won, 1), (0, lost, 1), (0.5, lost, 3), (1, won, 9)):
        before = weight.item()
        aim.schedule(done)
        assert weight.item() == before  # the length of a run sets nothing but the least
        loss_d = plain.d_loss(*logits).item() / plain.halves
        assert (loss_d < 0.6) == (logits is won)
        assert aim.d_loss(*logits).item() / aim.halves == pytest.approx(loss_d)
        expected = max(before * math.exp(0.02 * (0.6 - loss_d)), least)
        assert weight.item() == pytest.approx(expected)
        assert aim.penalty(parts["dis"], x, x).item() == pytest.approx(expected * once)
    for logits, limit in ((won, 1e4), (lost, 9)):
        for _ in range(2000):
            aim.d_loss(*(20 * logit for logit in logits))
        assert weight.item() == limit
    leaves = [value.requires_grad_() for value in lost]
    gradients = [torch.autograd.grad(one.d_loss(*leaves), leaves) for one in (aim, plain)]
    for held, free in zip(*gradients, strict=True):
        assert torch.equal(held, free)


def test_a_discriminator_is_held(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--batch_size=8", "--n_epoch=30", "--g_every=1", "--lr_d=5e-3"]
    words += ["--loss=rpgan", "--r1=0.01", "--r2=0.01", "--score_by=none", "--save_every=30"]
    ends = []
    for gp_aim in (0, 0.5):
        out = tmp_path / f"held-{gp_aim}"
        gan(*words, f"--gp_aim={gp_aim}", f"--img_dir={out}")
        saved = torch.load(out / "checkpoint.pt", weights_only=True)["progress"]
        ends.append((saved["gp_weight"].item(), saved["history"][-1]["loss_d"]))
    (free, won), (held, loss_d) = ends
    assert free == 1 and held > 2 and loss_d > 1.5 * won, ends


FIVE, BARE = GAN.Layers(kernel=5), GAN.Layers(bias=False)


def test_layers_of_five_by_five() -> None:
    gen, dis = GAN.Generator(128, 100, 8, FIVE), GAN.Discriminator(128, 8, like=FIVE)
    down = [(8, 16, 5, 2, 2), (16, 32, 5, 2, 2), (32, 64, 5, 2, 2), (64, 128, 5, 2, 2)]
    assert shapes(dis) == [(3, 8, 5, 2, 2), *down, (128, 1, 4, 1, 0)]  # one layer more than at 64
    assert len(shapes(GAN.Discriminator(64, 8, like=FIVE))) == 5
    assert [s[2:] for s in shapes(gen)] == [(4, 1, 0), *[(5, 2, 2)] * 5]
    for size in SIZES:
        gen, dis = GAN.Generator(size, 7, 2, FIVE), GAN.Discriminator(size, 2, like=FIVE)
        pictures = gen(torch.randn(3, 7, 1, 1))
        assert pictures.shape == (3, 3, size, size) and dis(pictures).shape == (3,)


def test_no_biases_dropout_and_spectral_norm() -> None:
    gen, dis = GAN.Generator(32, 7, 4, BARE), GAN.Discriminator(32, 4, like=BARE)
    layers = [m for m in [*gen, *dis] if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 8 and all(m.bias is None for m in layers)
    names = [type(m).__name__ for m in GAN.Discriminator(32, 4, "batch", dropout=0.5)]
    middle = ["Conv2d", "BatchNorm2d", "LeakyReLU", "Dropout2d"]
    assert names == ["Conv2d", "LeakyReLU", "Dropout2d", *middle * 2, "Conv2d", "Flatten"]
    torch.manual_seed(0)
    dis = GAN.Discriminator(32, 8, "spectral")
    init_dcgan(dis)
    x = torch.randn(2, 3, 32, 32)
    for _ in range(50):  # each time, the estimate of the singular vectors gets better
        dis(x)
    for module in dis:
        if isinstance(module, nn.Conv2d):
            inner: Any = module
            assert inner.parametrizations.weight.original.std().item() < 0.03  # the DCGAN paper's
            largest = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
            assert largest.item() == pytest.approx(1, rel=0.02)


def test_biases_where_batch_norm_would_not_undo_them() -> None:
    outer = GAN.Layers(bias="outer", upsample="nearest")
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    for like in (outer, GAN.Layers(bias="outer", deep_side=6)):
        size = 16 * like.deep_side // 2
        biases = [m.bias is not None for m in GAN.Generator(size, 7, 3, like) if hasattr(m, "bias")]
        assert biases == [False, True] * 3 + [True]  # batch norm has its own
        dis = GAN.Discriminator(size, 3, "batch", like=like)
        biases = [m.bias is not None for m in dis if isinstance(m, nn.Conv2d)]
        assert biases == [True, False, False, True]
        for norm in ("none", "spectral"):
            dis = GAN.Discriminator(size, 3, norm, like=like)
            assert all(m.bias is not None for m in dis if isinstance(m, nn.Conv2d))
    # Without its first layer's, a discriminator with batch norm is blind to contrast.
    for like, blind in ((BARE, True), (outer, False)):
        dis = GAN.Discriminator(32, 8, "batch", like=like)
        assert torch.allclose(dis(x), dis(x / 3), atol=1e-3) == blind


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
    gan(*words, "--gp_every=4", "--d_every=2", f"--img_dir={tmp_path / 'd'}")  # in steps 2 and 4
    gan(*words[:2], "--d_every=2", f"--img_dir={tmp_path / 'e'}")
    assert same(*(checkpoint(tmp_path / name)["parts"] for name in "de"))


def test_what_changes_a_run(gan: Run, faces: Path, tmp_path: Path) -> None:
    """Every word leads to other weights than every other, for it has an effect."""
    ways = ["", "--dis_dropout=0.2", "--instance_noise=0.1", "--label_smoothing=0.1", "--gp=10"]
    ways += ["--lr_decay=linear", "--loss=hinge", "--loss=bce-sum --optim_d=sgd", "--optim_d=sgd"]
    ways += ["--lr_by_fan_in", "--gp=10 --gp_growth=2"]
    states = []
    for i, way in enumerate(ways):
        words = [f"--data_dir={faces}", "--n_epoch=1", f"--img_dir={tmp_path / str(i)}"]
        gan(*words, *way.split())
        states.append(checkpoint(tmp_path / str(i))["parts"]["dis"])
    for i, way in enumerate(ways):
        assert not any(same(states[i], other) for other in states[:i]), way


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--loss=hinge --label_smoothing=0.1", "label_smoothing is for loss=bce"),
        ("--gp_every=4", "gp_every is for penalties"),
        ("--gp_growth=4", "gp_growth is for penalties"),
        ("--gp_aim=0.3 --gp=10", "gp_aim is for r1 and r2"),
        ("--gp_aim=0.3 --r1=1 --gp=10 --loss=wgan-gp", "with any loss but wgan-gp"),
        ("--gp_aim=0.7 --r1=1", "gp_aim must be below 0.69, loss_d of a D that can tell nothing"),
        ("--gp_aim=1 --r1=1 --loss=hinge", "gp_aim must be below 1, loss_d"),
        ("--gp_aim=-1 --r1=1", "gp_aim must be a number from 0 up"),
        ("--r1=1 --gp_growth=0", "gp_growth must be a number above 0"),
        ("--loss=wgan-gp", "loss=wgan-gp needs gp above 0: --gp=10"),
        ("--loss=rpgan", "loss=rpgan needs r1 or r2 above 0: --r1=1"),
        ("--grow=1 --dis_norm=spectral", "grow begins with weights of 0"),
        ("--super_res=3", "super_res=3 leaves 4x4: too few"),
        ("--super_res=-1", "super_res must be a whole number from 0 to 3"),
        ("--fm_factor=0.5", "fm_factor must be a number from 1 to 4"),
        ("--kernel=3", "kernel must be one of 4, 5"),
        ("--upsample=bilinear --kernel=5", "has a kernel of its own"),
        ("--deep_side=6 --image_size=64", "8·2^k or 12·2^k for deep_side=4, 12·2^k"),
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
    others = "optim_d=sgd bias=False kernel=5 modulate=1 full_fm=8 palette=8 grow=1 lr_by_fan_in"
    for word in [*others.split(), "fm_factor=1.5", "super_res=1"]:
        assert "other networks or optimisers" in gan(*words, f"--{word}", code=1).stderr
    saved = checkpoint(tmp_path / "img")
    later = "kernel bias modulate grow blocks full_fm augment optim_g optim_d lr_by_fan_in"
    later += " gp_growth gp_aim palette fm_factor super_res"
    for name in later.split():  # a checkpoint of before they existed
        del saved["settings"][name]
    del saved["progress"]["gp_weight"], saved["progress"]["sample"]
    torch.save(saved, tmp_path / "img" / "checkpoint.pt")
    others = "optim_d=sgd bias=outer kernel=5 modulate=1 blocks=1 fm_factor=1.5"
    for word in others.split():
        assert "other networks or optimisers" in gan(*words, f"--{word}", code=1).stderr
    assert "augment False -> True" in gan(*words[:1], "--n_epoch=2", "--augment").stdout


def test_a_longer_run_has_other_rates_and_says_so(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--lr_decay=linear"]
    gan(*words, "--n_epoch=1")
    said = gan(*words, "--n_epoch=2").stdout
    assert "n_epoch 1 -> 2: rates, noise, penalties and growth are now of a run so long" in said


def test_betas_without_adam(gan: Run, faces: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=1", "--optim_g=sgd"]
    said = gan(*words, "--beta1_g=0.9", "--beta2_d=0.9").stdout
    assert "beta1_g is Adam's: it has no effect with optim_g=sgd" in said and "beta2_d" not in said


def test_deterministic(gan: Run, faces: Path, tmp_path: Path) -> None:
    code = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); import torch, GAN; "
    code += "GAN.choose_machine('cpu', 'auto', {}); "
    code += "print(torch.are_deterministic_algorithms_enabled(), end=' '); "
    code += "print('CUBLAS_WORKSPACE_CONFIG' in os.environ)"
    script = tmp_path / "script.py"
    for value in (True, False):
        script.write_text(code.replace("{}", str(value)), "utf-8")
        assert forked.run([script]).stdout.split() == [str(value)] * 2
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


COMMON = "image_size=64 batch_size=128 g_every=1 dis_norm=batch gen_fm=64 dis_fm=64"
FAKEFACE, SGD = f"{COMMON} n_epoch=25", "optim_g=sgd optim_d=sgd"
PAPER = "lr_g=0.0002 lr_d=0.0002 beta1_g=0.5 beta1_d=0.5 beta2_g=0.999 beta2_d=0.999"
FINAL = "image_size=64 noise_size=200 batch_size=512 n_epoch=30 g_every=1"
DECAY = "lr_g=0.0002 lr_d=0.0001 weight_decay_d=0.0001 weight_decay_g=1e-6 init=dcgan"
REPORT = f"image_size=96 noise_size=100 d_every=1 g_every=5 n_epoch=200 dis_norm=none {PAPER}"
FACTS = {  # of the five reports
    "report96": f"{REPORT} gen_fm=32 dis_fm=32 batch_size=256 init=torch loss=bce",
    "paper96": f"{REPORT} gen_fm=128 dis_fm=128 batch_size=128",
    "tutorial64": f"{COMMON} {PAPER} noise_size=100 n_epoch=5 bias=False init=dcgan seed=999",
    "init_off64": f"{FAKEFACE} {PAPER} init=torch optim_g=adam optim_d=adam",
    "init_on64": f"{FAKEFACE} {PAPER} init=dcgan optim_g=adam optim_d=adam",
    "sgd64": f"{FAKEFACE} {SGD} init=torch",
    "sgd_init64": f"{FAKEFACE} {SGD} init=dcgan",
    "fakeface128": f"{PAPER} image_size=128 init=dcgan n_epoch=25 optim_g=adam optim_d=adam",
    "gan_sgd64": f"{FINAL} {SGD} lr_g=0.005 lr_d=0.005 loss=bce-sum dis_norm=batch",
    "wgan_gp64": f"{FINAL} lr_g=0.001 lr_d=0.001 beta1_d=0.5 loss=wgan-gp gp=10 dis_norm=none",
    "regularised64": f"{COMMON} {DECAY} dis_dropout=0.25",
    "highres128": f"{DECAY} image_size=128 kernel=5 dis_dropout=0",
}


@pytest.mark.parametrize("name", FACTS)
def test_recipes_are_the_reports(name: str) -> None:
    recipe = GAN.settings_now() | settings.read_recipe(f"recipes/{name}.py")
    for word in FACTS[name].split():
        for key, value in settings.read_word(f"--{word}").items():
            assert settings.check(key, recipe[key]) == settings.check(key, value), word


RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
assert set(RECIPES) == {*FACTS, "quick96", "best96", "long96", "best64", "best128", "small96"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_to_its_end(gan: Run, faces: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    words = [*TINY, f"--data_dir={faces}", f"--img_dir={out}", "--n_epoch=2"]
    if settings.read_recipe(f"recipes/{name}.py").get("deep_side") == 6:
        words.append("--image_size=48")  # not a power of two
    gan(f"recipes/{name}.py", *words)
    history = rows(out)
    assert len(history) == 2
    for one in history:
        assert all(math.isfinite(float(one[key])) for key in ("loss_d", "d_real", "d_fake"))
    assert math.isfinite(float(history[-1]["loss_g"])) and (out / "epoch-2.png").exists()
