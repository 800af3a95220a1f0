"""Networks, losses and single steps, held against the report's numbers and closed forms."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import GAN
from networks import (
    SHARPNESS,
    BilinearConv,
    EarlyMaps,
    EarlyPicture,
    GeneratorBlock,
    ModulatedNorm,
    NearestConv,
    Palette,
    ResidualBlock,
    Upscaler,
    init_dcgan,
    init_he,
    through,
)
from objectives import augmented, zero_centred
from settings import check_stages

CPU = GAN.Machine(torch.device("cpu"), torch.float32, torch.channels_last, "cpu")
SIZES = (32, 48, 64, 96, 128, 192, 256)


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def shapes(net: nn.Module) -> list[tuple[int, ...]]:
    """(in, out, kernel, stride, padding) of every convolution."""
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], int(m.padding[0]))
        for m in net.modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]


@pytest.mark.parametrize(
    ("fm", "generator", "discriminator"), [(32, 1_101_571, 695_105), (128, 12_663_811, 11_037_953)]
)
def test_numbers_of_weights(fm: int, generator: int, discriminator: int) -> None:
    assert count(GAN.Generator(96, 100, fm)) == generator
    assert count(GAN.Discriminator(96, fm)) == discriminator


def test_layers_at_96_are_the_reports() -> None:
    gen, dis = GAN.Generator(96, 100, 32), GAN.Discriminator(96, 32)
    up = [(100, 256, 4, 1, 0), (256, 128, 4, 2, 1), (128, 64, 4, 2, 1), (64, 32, 4, 2, 1)]
    assert shapes(gen) == [*up, (32, 3, 5, 3, 1)]
    down = [(32, 64, 4, 2, 1), (64, 128, 4, 2, 1), (128, 256, 4, 2, 1)]
    assert shapes(dis) == [(3, 32, 5, 3, 1), *down, (256, 1, 4, 1, 0)]
    names = [type(m).__name__ for m in gen]
    assert names == ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 4 + ["ConvTranspose2d", "Tanh"]
    names = [type(m).__name__ for m in dis]
    assert names == ["Conv2d", "LeakyReLU"] * 4 + ["Conv2d", "Flatten"]
    assert {m.negative_slope for m in dis if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert all(m.bias is not None for m in [*gen, *dis] if hasattr(m, "kernel_size"))


@pytest.mark.parametrize("size", SIZES)
def test_one_rule_for_every_size(size: int) -> None:
    gen, dis = GAN.Generator(size, 7, 1), GAN.Discriminator(size, 1, "batch")
    pictures = gen(torch.randn(3, 7, 1, 1))
    assert pictures.shape == (3, 3, size, size)
    assert pictures.abs().max() <= 1
    assert dis(pictures).shape == (3,)
    sides = [1]
    for _, _, kernel, stride, padding in shapes(gen):
        sides.append((sides[-1] - 1) * stride - 2 * padding + kernel)
    assert [b // a for a, b in itertools.pairwise(sides)][:-1] == [4] + [2] * (len(sides) - 3)
    reverse = [(out, into, *rest) for into, out, *rest in reversed(shapes(gen)[1:])]
    assert shapes(dis)[:-1] == reverse  # the discriminator mirrors the generator


@pytest.mark.parametrize("size", [0, 4, 40, 80, 100, 250])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(GAN.UserError, match="8·2\\^k or 12·2\\^k"):
        GAN.Generator(size, 7, 2)


SIX = GAN.Layers(deep_side=6)


def test_from_6x6_every_stage_doubles() -> None:
    gen, dis = GAN.Generator(96, 100, 32, SIX), GAN.Discriminator(96, 32, like=SIX)
    up = [(100, 256, 6, 1, 0), (256, 128, 4, 2, 1), (128, 64, 4, 2, 1), (64, 32, 4, 2, 1)]
    assert shapes(gen) == [*up, (32, 3, 4, 2, 1)]
    down = [(32, 64, 4, 2, 1), (64, 128, 4, 2, 1), (128, 256, 4, 2, 1)]
    assert shapes(dis) == [(3, 32, 4, 2, 1), *down, (256, 1, 6, 1, 0)]
    for size in (48, 192):
        pictures = GAN.Generator(size, 7, 1, SIX)(torch.randn(3, 7, 1, 1))
        assert pictures.shape == (3, 3, size, size)
        assert GAN.Discriminator(size, 1, like=SIX)(pictures).shape == (3,)
    with pytest.raises(GAN.UserError, match="12·2\\^k or 18·2\\^k for deep_side=6, not 64"):
        GAN.Generator(64, 7, 1, SIX)


@pytest.mark.parametrize(
    "fm, factor, fms",
    [
        (24, 1.4, [24, 32, 48, 64]),  # eights nearest to 33.6, 47.04 and 65.856
        (16, 1.6, [16, 24, 40, 64]),
        (4, 1.5, [4, 8, 8, 12]),  # and fours, where there are only four
        (5, 1.5, [5, 8, 11, 17]),
        (3, 1, [3, 3, 3, 3]),
        (32, 2, [32, 64, 128, 256]),
        (16, 4, [16, 64, 256, 1024]),
    ],
)
def test_feature_maps_at_half_the_side(fm: int, factor: float, fms: list[int]) -> None:
    like = GAN.Layers(deep_side=6, fm_factor=factor, bias=False)
    gen, dis = GAN.Generator(96, 7, fm, like), GAN.Discriminator(96, fm, "batch", like=like)
    pictures = gen(torch.randn(2, 7, 1, 1))
    assert pictures.shape == (2, 3, 96, 96) and dis(pictures).shape == (2,)
    assert [into for into, *_ in shapes(gen)] == [7, *reversed(fms)]
    assert [into for into, *_ in shapes(dis)] == [3, *fms]
    norms = [m.num_features for m in gen if isinstance(m, nn.BatchNorm2d)]
    assert norms == fms[::-1]
    norms = [m.num_features for m in dis if isinstance(m, nn.BatchNorm2d)]
    assert norms == fms[1:]  # not after the first layer, nor the last


@pytest.mark.parametrize("k", [2, 3])
def test_nearest_neighbours_then_3x3(k: int) -> None:
    """The one transposed convolution is the two operations that it stands for; so is its slope."""
    layer = NearestConv(5, 7, k).double()
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64, requires_grad=True)
    kernel = layer.weight.flip(2, 3).transpose(0, 1)
    enlarged = F.interpolate(x, scale_factor=k, mode="nearest")
    expected = F.conv2d(enlarged, kernel, layer.bias, padding=1)
    found = layer(x)
    assert found.shape == (2, 7, 6 * k, 6 * k)
    torch.testing.assert_close(found, expected)
    ways = torch.randn_like(found)
    slopes = [torch.autograd.grad((y * ways).sum(), [x, layer.weight]) for y in (found, expected)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("k", [2, 3])
def test_bilinear_then_k_by_k(k: int) -> None:
    """New pixels lie on straight lines between old ones, k - 1 of them; a convolution follows."""
    layer = BilinearConv(5, 7, k).double()
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64, requires_grad=True)
    side = 5 * k + 1  # from the first old pixel to the last
    lines = F.interpolate(x, side, mode="bilinear", align_corners=True)
    inner = F.conv2d(lines, layer.weight.flip(2, 3).transpose(0, 1), layer.bias)
    found = layer(x)
    assert found.shape == (2, 7, 6 * k, 6 * k)
    first = k - 1  # further out, lines to the zeros around the maps take part
    found_inner = found[:, :, first : first + side - k + 1, first : first + side - k + 1]
    torch.testing.assert_close(found_inner, inner)
    ways = torch.randn_like(inner)
    slopes = [
        torch.autograd.grad((y * ways).sum(), [x, layer.weight]) for y in (found_inner, inner)
    ]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("kind", [NearestConv, BilinearConv])
@pytest.mark.parametrize("size", [32, 96, 128])
def test_a_generator_without_weave(size: int, kind: type[nn.ConvTranspose2d]) -> None:
    name = kind.__name__.removesuffix("Conv").lower()
    plain, even = GAN.Generator(size, 7, 4), GAN.Generator(size, 7, 4, GAN.Layers(upsample=name))
    assert even(torch.randn(3, 7, 1, 1)).shape == (3, 3, size, size)
    assert [type(m).__name__ for m in even] == [
        kind.__name__ if isinstance(m, nn.ConvTranspose2d) and m.stride[0] > 1 else type(m).__name__
        for m in plain
    ]
    # Constant maps stay constant, but for the border: all pixels get equally many weights.
    layer = even[3]
    assert isinstance(layer, kind)
    with torch.no_grad():
        same = layer(torch.ones(1, layer.in_channels, 6, 6))[0, :, 2:-2, 2:-2]
    torch.testing.assert_close(same, same[:, :1, :1].expand_as(same))


@pytest.mark.parametrize(("training", "share"), [(True, 1), (False, 1), (True, 0.25)])
def test_modulated_norm(training: bool, share: float) -> None:
    """Self-modulation: normalised maps times 1 + a row of the linear layer, plus another row."""
    norm, x, z = ModulatedNorm(3, 5, share), torch.randn(4, 3, 6, 6), torch.randn(4, 5, 1, 1)
    norm.double()
    x, z = x.double(), z.double()
    norm.running_mean, norm.running_var = torch.rand(2, 3, dtype=torch.float64)
    norm.train(training)
    dims = (0, 2, 3)
    mean, var = x.mean(dims), x.var(dims, unbiased=False)
    if not training:
        mean, var = norm.running_mean.clone(), norm.running_var.clone()
    normalised = (x - mean.view(3, 1, 1)) / (var.view(3, 1, 1) + norm.eps).sqrt()
    row = share * z.flatten(1) @ norm.linear.weight.T + norm.linear.bias
    expected = normalised * (1 + row[:, :3, None, None]) + row[:, 3:, None, None]
    assert row.abs().mean() > 0.01 * share  # the noise counts from the start
    torch.testing.assert_close(norm(x, z), expected)


@pytest.mark.parametrize("size", [32, 96])
def test_a_modulated_generator(size: int) -> None:
    like = GAN.Layers(modulate=1, bias=False)
    settings = {"image_size": size, "noise_size": 7, "gen_fm": 4, **like._asdict()}
    torch.manual_seed(0)
    gen = GAN.make_generator(settings)
    names = ["ModulatedNorm" if isinstance(m, nn.BatchNorm2d) else type(m).__name__ for m in gen]
    assert names == [type(m).__name__ for m in gen] and names.count("ModulatedNorm") == (
        len(shapes(gen)) - 1
    )
    plain = GAN.Generator(size, 7, 4, GAN.Layers(bias=False))
    plain.load_state_dict(gen.state_dict(), strict=False)  # batch norm's own weights: 1 and 0
    noise = torch.randn(6, 7, 1, 1)
    assert not torch.allclose(gen(noise), plain(noise), atol=1e-3)
    older = GAN.make_generator(settings | {"modulate": True})  # in files: all of the noise
    older.load_state_dict(gen.state_dict())
    assert torch.equal(older(noise), gen(noise))
    for m in gen:
        if isinstance(m, ModulatedNorm):
            nn.init.zeros_(m.linear.weight)
    torch.testing.assert_close(gen(noise), plain(noise))
    gen(noise).sum().backward()
    assert all(w.grad is not None for w in gen.parameters())


def test_a_modulated_generator_in_bf16() -> None:
    """The same pictures and gradients but for rounding; what it keeps stays float32."""
    torch.manual_seed(0)
    like = GAN.Layers(modulate=1, bias="outer", upsample="nearest")
    gen = GAN.make_generator({"image_size": 32, "noise_size": 7, "gen_fm": 16, **like._asdict()})
    init_dcgan(gen)
    for m in gen:
        if isinstance(m, ModulatedNorm):
            nn.init.normal_(m.linear.weight, 0, 0.2)
    noise = torch.randn(64, 7, 1, 1)
    rough = copy.deepcopy(gen)
    with torch.autocast("cpu", torch.bfloat16):
        pictures = rough(noise)
    assert pictures.dtype == torch.bfloat16
    error = (pictures.float() - gen(noise)).square().mean() / gen(noise).square().mean()
    assert error.sqrt() < 0.03
    pictures.float().square().mean().backward()
    gen(noise).square().mean().backward()
    for one, other in zip(rough.parameters(), gen.parameters(), strict=True):
        assert one.dtype == torch.float32 and one.grad is not None and other.grad is not None
        if one.grad.norm() > 1e-6:  # of a bias before batch norm it is 0
            assert F.cosine_similarity(one.grad.flatten(), other.grad.flatten(), 0) > 0.9
    assert torch.bfloat16 not in {value.dtype for value in rough.state_dict().values()}


def test_batch_norm_in_all_but_the_outer_layers() -> None:
    names = [type(m).__name__ for m in GAN.Discriminator(64, 4, "batch")]
    inner = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert names == ["Conv2d", "LeakyReLU", *inner * 3, "Conv2d", "Flatten"]


def test_init_dcgan() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*GAN.Generator(64, 100, 32), *GAN.Discriminator(64, 32, "batch"))
    init_dcgan(net)
    for m in net:
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            mean = 1.0 if isinstance(m, nn.BatchNorm2d) else 0.0
            error = 5 * 0.02 / math.sqrt(m.weight.numel())
            assert abs(m.weight.mean().item() - mean) < error
            assert m.weight.std().item() == pytest.approx(0.02, abs=error)
            assert m.bias is not None and not m.bias.any()


@pytest.mark.parametrize("modulate", [0, 0.25])
def test_a_generator_with_blocks(modulate: float) -> None:
    """Two at every size but the last; with weights of 0 they change nothing."""
    like = GAN.Layers(deep_side=6, upsample="nearest", modulate=modulate, bias="outer", blocks=2)
    settings = {"image_size": 96, "noise_size": 7, "gen_fm": 4, **like._asdict()}
    torch.manual_seed(0)
    gen, plain = (GAN.make_generator(settings | {"blocks": blocks}) for blocks in (2, 0))
    found = [m.conv for m in gen if isinstance(m, GeneratorBlock)]
    assert shapes(nn.Sequential(*found)) == [(n, n, 3, 1, 1) for n in (32, 32, 16, 16, 8, 8, 4, 4)]
    assert all(conv.bias is None for conv in found)
    kinds = [type(m).__name__ for m in plain]
    stage = [kinds[3], *["GeneratorBlock"] * 2, *kinds[1:3]]  # convolution, blocks, norm, ReLU
    assert [type(m).__name__ for m in gen] == [kinds[0], *stage[1:], *stage * 3, *kinds[-2:]]
    for bias in (True, False):
        like = like._replace(bias=bias)
        other = GAN.make_generator(settings | like._asdict())
        assert [bias] * 8 == [
            m.conv.bias is not None for m in other if isinstance(m, GeneratorBlock)
        ]
    same = iter(m for m in gen if not isinstance(m, GeneratorBlock))
    for layer in plain:
        layer.load_state_dict(next(same).state_dict())
    noise = torch.randn(5, 7, 1, 1)
    assert (gen(noise) - plain(noise)).abs().mean() > 0.01
    gen(noise).sum().backward()
    assert all(w.grad is not None for w in gen.parameters())
    for conv in found:
        nn.init.zeros_(conv.weight)
    torch.testing.assert_close(gen(noise), plain(noise))


@pytest.mark.parametrize("upsample", ["transposed", "nearest", "bilinear"])
@pytest.mark.parametrize("size, deep_side", [(64, 4), (96, 4), (96, 6)])
def test_a_generator_with_maps_of_full_size(size: int, deep_side: int, upsample: str) -> None:
    """Five of them; below them it is the generator that it would be without."""
    like = GAN.Layers(deep_side=deep_side, upsample=upsample, bias="outer", full_fm=5, blocks=1)
    settings = {"image_size": size, "noise_size": 7, "gen_fm": 4, **like._asdict()}
    gen, plain = (GAN.make_generator(settings | {"full_fm": maps}) for maps in (5, 0))
    assert [*map(str, gen)][: len(plain) - 2] == [*map(str, plain)][:-2]
    enlarge, norm, _, to_rgb, _ = [*gen][-5:]
    assert type(enlarge) is type(plain[-2]) and enlarge.stride == plain[-2].stride
    assert enlarge.bias is None and to_rgb.bias is not None and norm.num_features == 5
    maps: list[Tensor] = []
    enlarge.register_forward_hook(lambda layer, x, out: maps.append(out))
    noise = torch.randn(3, 7, 1, 1)
    pictures = gen(noise)
    assert maps[0].shape == (3, 5, size, size)
    mean, var = maps[0].mean((0, 2, 3), keepdim=True), maps[0].var((0, 2, 3), keepdim=True)
    normed = (maps[0] - mean) / (var + norm.eps).sqrt()
    expected = F.conv2d(normed.clamp(min=0), to_rgb.weight, to_rgb.bias, padding=1).tanh()
    torch.testing.assert_close(pictures, expected, atol=1e-3, rtol=1e-3)
    pictures.sum().backward()
    assert all(w.grad is not None for w in gen.parameters())
    assert GAN.make_generator(settings | {"bias": True})[-5].bias.shape == (5,)
    modulated = GAN.make_generator(settings | {"modulate": 0.25, "blocks": 0})
    assert isinstance(modulated[-4], ModulatedNorm)
    assert modulated(noise).shape == (3, 3, size, size)


@pytest.mark.parametrize("full_fm", [0, 5])
@pytest.mark.parametrize("upsample", ["transposed", "bilinear"])
def test_a_generator_with_a_palette(full_fm: int, upsample: str) -> None:
    """Against single pixels; below its last convolution it is the one without."""
    torch.manual_seed(0)
    like = GAN.Layers(upsample=upsample, full_fm=full_fm, bias="outer", palette=4)
    settings = {"image_size": 32, "noise_size": 7, "gen_fm": 4, **like._asdict()}
    gen, plain = (GAN.make_generator(settings | {"palette": n}) for n in (4, 0))
    assert [*map(str, gen)][:-2] == [*map(str, plain)][:-2]
    assert count(gen[-2]) * 3 == count(plain[-2]) * 4
    maps: list[Tensor] = []
    gen[-2].register_forward_hook(lambda layer, x, out: maps.append(out))
    noise = torch.randn(3, 7, 1, 1)
    palette = gen[-1]
    assert isinstance(palette, Palette)
    nn.init.normal_(palette.bias)
    pictures = gen(noise)
    assert maps[0].shape == (3, 4, 32, 32) and pictures.shape == (3, 3, 32, 32)
    greys = torch.tensor([-1, -1 / 3, 1 / 3, 1])[:, None]
    own = noise.flatten(1) @ palette.linear.weight.T  # of the second and fourth colour
    none = torch.zeros(3, 3)
    change = torch.stack([none, own[:, :3], none, own[:, 3:]], 1)
    colours = (greys + palette.bias + change).tanh()
    for i, y, x in ((0, 0, 0), (0, 31, 5), (1, 7, 30), (2, 16, 16)):
        parts = [math.exp(SHARPNESS * v.item()) for v in maps[0][i, :, y, x]]
        expected = torch.tensor(parts) / sum(parts) @ colours[i]
        torch.testing.assert_close(pictures[i, :, y, x], expected)
    pictures.square().sum().backward()
    assert all(w.grad is not None and w.grad.any() for w in gen.parameters())


def test_a_palette_draws_even_fields() -> None:
    """Where one share is near 1, changes of the maps are not seen."""
    torch.manual_seed(0)
    layer, noise = Palette(3, 5), torch.randn(1, 5, 1, 1)
    maps = torch.zeros(1, 3, 8, 8)
    maps[:, 0, :4], maps[:, 1, 4:] = 5, 5
    changed = maps + torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(layer(changed, noise), layer(maps, noise), atol=1e-4, rtol=0)
    assert (layer(maps, noise)[..., 3, :] - layer(maps, noise)[..., 4, :]).abs().max() > 0.05


def test_a_palette_begins_as_greys() -> None:
    """So which colour is taken matters from the first step on."""
    gen = GAN.make_generator({"image_size": 32, "noise_size": 7, "gen_fm": 4, "palette": 3})
    init_dcgan(gen)
    palette = gen[-1]
    assert isinstance(palette, Palette)
    nn.init.zeros_(palette.linear.weight)
    maps = torch.zeros(1, 3, 1, 1, requires_grad=True)
    picture = palette(maps, torch.randn(1, 7, 1, 1))
    torch.testing.assert_close(picture.flatten(), torch.zeros(3))
    picture.sum().backward()
    t = math.tanh(1) * SHARPNESS  # of each of three channels' thirds
    torch.testing.assert_close(maps.grad, torch.tensor([-t, 0, t]).view(1, 3, 1, 1))


def test_a_palette_in_bf16() -> None:
    """In the memory's order that convolutions like."""
    torch.manual_seed(0)
    layer, noise = Palette(3, 5), torch.randn(2, 5, 1, 1)
    maps = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    expected = layer(maps, noise)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        pictures = layer(maps.bfloat16(), noise)
    assert pictures.dtype == torch.bfloat16
    assert pictures.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pictures.float(), expected, atol=0.03, rtol=0)


GROWING = [  # image_size, deep_side, full_fm, palette, norm in D, and sides of the early pictures
    (96, 6, 5, 4, "none", (48,)),
    (96, 4, 0, 0, "batch", (32, 16)),
    (64, 4, 3, 0, "none", (32, 16, 8)),
]


@pytest.mark.parametrize("size, deep_side, full_fm, palette, norm, sides", GROWING)
def test_networks_that_grow(
    size: int, deep_side: int, full_fm: int, palette: int, norm: str, sides: tuple[int, ...]
) -> None:
    """Details of one size after the other, and nothing jumps when they come."""
    settings = GAN.settings_now() | {"image_size": size, "gen_fm": 4, "dis_fm": 4, "blocks": 1}
    settings |= {"deep_side": deep_side, "full_fm": full_fm, "grow": len(sides), "init": "he"}
    settings |= {"upsample": "nearest", "modulate": True, "bias": "outer", "palette": palette}
    torch.manual_seed(0)
    parts = GAN.build(settings | {"dis_norm": norm}, CPU)
    gen, dis, average = (parts[name] for name in ("gen", "dis", "average"))
    biases = [m.bias is not None for m in (*gen, *dis) if isinstance(m, EarlyPicture | EarlyMaps)]
    assert biases == [True] * len(sides) + [norm == "none"] * len(sides)
    noise, x = torch.randn(5, 100, 1, 1), torch.rand(5, 3, size, size) * 2 - 1
    answers = torch.empty(0)
    maps: list[Tensor] = []
    gen[-1].register_forward_hook(lambda layer, x, out: maps.append(x[0].detach()))
    entrances: list[nn.Module] = []

    def seen(pictures: Tensor, side: int) -> Tensor:
        return F.interpolate(F.avg_pool2d(pictures, size // side), size)

    for left, side in reversed([*enumerate((size, *sides))]):
        assert gen.left == dis.left == left
        pictures = gen(noise)
        assert pictures.shape == x.shape and pictures.abs().max() <= 1
        if entrances:
            smooth = F.interpolate(maps[-2], side, mode="bilinear")
            expected = F.interpolate(through(gen[-1], smooth, noise), size)
            torch.testing.assert_close(pictures, expected)
            torch.testing.assert_close(dis(x), answers)
            for layer in entrances:  # as steps do with weights that are 0 at first
                nn.init.normal_(next(layer.parameters()), 0, 0.1)
        torch.testing.assert_close(seen(pictures := gen(noise), side), pictures)
        torch.testing.assert_close(dis(seen(x, side)), dis(x))
        if left < len(sides):
            assert not torch.allclose(seen(pictures, sides[left]), pictures, atol=1e-3)
            assert not torch.allclose(dis(seen(x, sides[left])), dis(x), atol=1e-4)
        (dis(gen(noise)).sum() + dis(x).square().sum()).backward()
        idle = [name for net in (gen, dis) for name, w in net.named_parameters() if w.grad is None]
        assert bool(idle) == (left > 0)
        assert zero_centred(dis, x).item() > 0
        if left:
            answers = dis(x).detach()
            entrances = [net.entrance() for net in (gen, dis)]
            gen.grow()
            dis.grow()
            average.load_state_dict(gen.state_dict())
            assert average.left == left - 1
    with pytest.raises(GAN.UserError, match="grow must be"):
        check_stages(settings | {"grow": 1 + int(math.log2(size // deep_side))})


def test_an_upscaler() -> None:
    """Against single pixels where it knows nothing; what it makes means the same in any case."""
    torch.manual_seed(0)
    up, x = Upscaler(4, True), torch.rand(2, 3, 4, 6) * 2 - 1
    large = up(x)
    assert large.shape == (2, 3, 8, 12)
    torch.testing.assert_close(F.avg_pool2d(large, 2), x)
    init_dcgan(up)
    torch.testing.assert_close(F.avg_pool2d(up(x), 2), x)
    for weight in up.parameters():
        nn.init.zeros_(weight)
    edge = torch.tensor([[0.0, 0, 0, 1, 1, 1]]).repeat(6, 1).expand(1, 3, 6, 6)
    row = torch.tensor([0, 0, 0, 0, 0, 0.25, 0.75, 1, 1, 1, 1, 1])  # bilinear, whose means are off
    row += torch.tensor([0, 0, 0, 0, -0.125, -0.125, 0.125, 0.125, 0, 0, 0, 0])
    torch.testing.assert_close(up(edge), row.expand(1, 3, 12, 12))


@pytest.mark.parametrize("grow", [0, 1])
def test_super_resolution(grow: int) -> None:
    """Both networks have small pictures, an upscaler for each doubling learns from real ones."""
    torch.manual_seed(0)
    settings = GAN.settings_now() | {"image_size": 64, "gen_fm": 4, "dis_fm": 4, "super_res": 2}
    settings |= {"grow": grow, "palette": 3, "bias": "outer", "lr_g": 1e-2}
    parts = GAN.build(settings, CPU)
    gen, dis = parts["gen"], parts["dis"]
    small, *ups = gen
    alone = GAN.make_generator(settings | {"image_size": 16, "super_res": 0})
    assert shapes(small) == shapes(alone) and [type(up) for up in ups] == [Upscaler] * 2
    assert getattr(gen, "left", 0) == getattr(dis, "left", 0) == grow
    noise, x = torch.randn(5, 100, 1, 1), torch.rand(5, 3, 64, 64) * 2 - 1
    assert gen(noise).shape == (5, 3, 16, 16)
    last = ups[1][-2].weight
    last.data *= 30  # too light and too dark in places
    drawn, few = GAN.draw(gen, noise), GAN.draw(small, noise)
    assert drawn.shape == (5, 3, 64, 64) and drawn.abs().max() <= 1 and gen(noise).shape[2] == 16
    whole = ups[1](ups[0](few))
    assert whole.abs().max() > 1
    torch.testing.assert_close(drawn, whole.clamp(-1, 1))
    torch.testing.assert_close(F.avg_pool2d(whole, 4), few)
    aim = GAN.choose_objective(settings, 5, parts)
    torch.testing.assert_close(aim.seen(x), F.avg_pool2d(x, 4))
    assert aim.seen(few) is few
    two, half = x[:2], F.avg_pool2d(x[:2], 2)  # a quarter of them, rounded up
    off = (ups[1](half) - two).abs().mean() + (ups[0](F.avg_pool2d(half, 2)) - half).abs().mean()
    assert aim.upscaling is not None
    torch.testing.assert_close(aim.upscaling(gen, x), off)
    steps = GAN.build_steps(parts, CPU, aim)
    pictures = GAN.to_bytes(x).permute(0, 2, 3, 1)
    before = copy.deepcopy(gen)
    for turn, learnt in (((True, False, False), ups), ((False, False, True), [small])):
        old = copy.deepcopy(gen)
        steps[turn](noise, *[pictures] if turn[0] else [])
        for part, was in zip(gen, old, strict=True):
            pairs = [*zip(part.parameters(), was.parameters(), strict=True)]
            moved = [not torch.equal(*pair) for pair in pairs if pair[0].grad is not None]
            assert (any(moved) and all(moved)) == (part in learnt)
            assert part in learnt or all(torch.equal(*pair) for pair in pairs)
    for _ in range(60):
        steps[True, False, True](noise, pictures)
    assert aim.upscaling(gen, x) < 0.95 * aim.upscaling(before, x)
    changes: dict[str, Any] = {"augment": True, "instance_noise": 0.1}
    aim = GAN.choose_objective(settings | changes, 5, parts)
    aim.schedule(0)
    torch.manual_seed(1)
    seen = aim.seen(x)  # reduced first, noisy at last
    torch.manual_seed(1)
    expected = augmented(F.avg_pool2d(x, 4))
    torch.testing.assert_close(seen, expected + 0.1 * torch.randn_like(expected))
    if grow:
        for net in gen, dis:
            net.grow()
        assert gen.left == small.left == 0 and gen(noise).shape == (5, 3, 16, 16)
    with pytest.raises(GAN.UserError, match="super_res=3 leaves 4x4: too few"):
        check_stages(settings | {"image_size": 32, "super_res": 3})


def test_a_generator_block() -> None:
    block, x, z = GeneratorBlock(3), torch.randn(4, 3, 6, 6), torch.randn(4, 5, 1, 1)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    for norm in (nn.BatchNorm2d(3), ModulatedNorm(3, 5, 1)):
        block.norm = norm
        maps = (x - mean) / (var + norm.eps).sqrt()
        if isinstance(norm, ModulatedNorm):
            row = norm.linear(z.flatten(1))[..., None, None]
            maps = maps * (1 + row[:, :3]) + row[:, 3:]
        expected = x + F.conv2d(maps.clamp(min=0), block.conv.weight, padding=1)
        torch.testing.assert_close(block(x, z), expected)


@pytest.mark.parametrize("norm", ["none", "batch", "spectral"])
def test_a_discriminator_with_blocks(norm: str) -> None:
    """Two behind every LeakyReLU, normed as the rest; of weights 0, each divides maps by √2."""
    torch.manual_seed(0)
    like = GAN.Layers(bias=False, blocks=2)
    dis, plain = GAN.Discriminator(64, 4, norm, 0.3, like), GAN.Discriminator(64, 4, norm, 0.3)
    found = [m for m in dis if isinstance(m, ResidualBlock)]
    assert shapes(nn.Sequential(*found)) == [(n, n, 3, 1, 1) for n in (4, 4, 8, 8, 16, 16, 32, 32)]
    kinds = [type(m).__name__ for m in plain]
    for i in reversed(range(len(kinds))):
        kinds[i + 1 : i + 1] = ["ResidualBlock"] * (2 if kinds[i] == "LeakyReLU" else 0)
    assert [type(m).__name__ for m in dis] == kinds
    assert all(isinstance(block[1], nn.BatchNorm2d) == (norm == "batch") for block in found)
    weights = [weight for block in found if isinstance(weight := block[0].weight, Tensor)]
    largest = [torch.linalg.matrix_norm(weight.flatten(1), 2) for weight in weights]
    assert all(value.item() == pytest.approx(1, abs=0.1) for value in largest) == (
        norm == "spectral"
    )
    x = torch.randn(5, 3, 64, 64)
    if norm == "none":
        for weight in weights:
            nn.init.zeros_(weight)
        short = nn.Sequential(*(m for m in dis if not isinstance(m, ResidualBlock)))
        torch.testing.assert_close(dis.eval()(x), short.eval()(x) / 2**4)
    dis(x).sum().backward()
    assert all(w.grad is not None for w in dis.parameters())
    for bias, biases in ((True, 8), ("outer", 0 if norm == "batch" else 8)):
        dis = GAN.Discriminator(64, 4, norm, like=GAN.Layers(bias=bias, blocks=2))
        blocks = [m for m in dis if isinstance(m, ResidualBlock)]
        assert sum(block[0].bias is not None for block in blocks) == biases


def test_a_residual_block() -> None:
    conv, x = nn.Conv2d(3, 3, 3, 1, 1), torch.randn(4, 3, 6, 6)
    maps = F.conv2d(x, conv.weight, conv.bias, padding=1)
    for norm in (nn.Identity(), nn.BatchNorm2d(3)):
        block = ResidualBlock(conv, norm, nn.LeakyReLU(0.2, inplace=True))
        expected = (x + F.leaky_relu(norm(maps), 0.2)) / 2**0.5
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("blocks", [0, 1])
def test_init_he_keeps_the_size_of_maps(blocks: int) -> None:
    """Through a discriminator without batch norm; the generator's first weights are the paper's."""
    torch.manual_seed(0)
    gen, dis = GAN.Generator(64, 100, 32), GAN.Discriminator(64, 32, like=GAN.Layers(blocks=blocks))
    init_he(gen)
    init_he(dis)
    weights = torch.cat([m.weight.flatten() for m in gen if isinstance(m, nn.ConvTranspose2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    x = torch.randn(16, 3, 64, 64)
    for layer in dis:
        x = layer(x)
        if isinstance(layer, nn.LeakyReLU | ResidualBlock):
            inner = x[:, :, 1:-1, 1:-1]  # at the border, padding takes something away
            size = inner.square().mean().sqrt().item()
            assert 0.75 < size < (2 if blocks else 1.25)  # without 1/√2: 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
@pytest.mark.parametrize("there", [["cuda", "mps"], ["mps"]])
def test_auto_takes_the_fastest_device(there: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as can be seen without one: it is tried, and named where it can't be used."""
    for name in ("cuda", "mps"):
        found = name in there
        monkeypatch.setattr(f"torch.{name}.is_available", lambda found=found: found)
    with pytest.raises(GAN.UserError, match=f"device={there[0]} can't be used"):
        GAN.choose_machine("auto", "fp32")
    monkeypatch.undo()
    if not torch.mps.is_available():
        assert GAN.choose_machine("auto", "fp32").device.type == "cpu"


def test_losses_are_binary_cross_entropy() -> None:
    real, fake = torch.randn(50, requires_grad=True), torch.randn(50, requires_grad=True)
    ones, zeros = torch.ones(50), torch.zeros(50)
    d_real = F.binary_cross_entropy(real.sigmoid(), ones)
    d_fake = F.binary_cross_entropy(fake.sigmoid(), zeros)
    torch.testing.assert_close(GAN.bce_d(real, fake), d_real + d_fake)
    torch.testing.assert_close(GAN.bce_g(fake), F.binary_cross_entropy(fake.sigmoid(), ones))
    (by_real, by_fake) = torch.autograd.grad(GAN.bce_d(real, fake), (real, fake))
    torch.testing.assert_close(by_real, (real.sigmoid() - 1) / 50)
    torch.testing.assert_close(by_fake, fake.sigmoid() / 50)
    (by_fake,) = torch.autograd.grad(GAN.bce_g(fake), fake)
    torch.testing.assert_close(by_fake, (fake.sigmoid() - 1) / 50)


def test_losses_do_not_saturate() -> None:
    far = torch.tensor([200.0])
    assert GAN.bce_d(-far, far).item() == 400
    assert GAN.bce_g(-far).item() == 200
    assert GAN.bce_d(far, -far).item() == 0


def networks(norm: str = "none") -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    gen, dis = GAN.Generator(32, 5, 3), GAN.Discriminator(32, 3, norm)
    pictures = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    return gen, dis, pictures, torch.randn(6, 5, 1, 1)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_d_step(norm: str) -> None:
    gen, dis, pictures, noise = networks(norm)
    real = GAN.to_real(pictures, CPU)
    plain = copy.deepcopy(dis)
    fake = gen(noise).detach()
    p_real, p_fake = plain(real).sigmoid(), plain(fake).sigmoid()  # two passes, as the report has
    loss = F.binary_cross_entropy(p_real, torch.ones(6))
    loss = loss + F.binary_cross_entropy(p_fake, torch.zeros(6))
    loss.backward()
    opt = torch.optim.SGD(dis.parameters(), lr=0.1)
    result, logits = GAN.d_step(dis, opt, CPU, real, fake)
    expected = torch.stack([loss / 2, p_real.mean(), p_fake.mean()])
    torch.testing.assert_close(result, expected.detach())
    for after, before in zip(dis.parameters(), plain.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after.detach(), before.detach() - 0.1 * before.grad)
    torch.testing.assert_close(logits.sigmoid(), p_real.detach())
    assert not logits.requires_grad


def test_g_step() -> None:
    gen, dis, _, noise = networks()
    plain, weights_before = copy.deepcopy(gen), copy.deepcopy(list(dis.parameters()))
    loss = F.binary_cross_entropy(copy.deepcopy(dis)(plain(noise)).sigmoid(), torch.ones(6))
    loss.backward()
    opt = torch.optim.SGD(gen.parameters(), lr=0.1)
    torch.testing.assert_close(GAN.g_step(dis, opt, CPU, gen(noise)), loss.detach())
    for after, before in zip(gen.parameters(), plain.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(after.detach(), before.detach() - 0.1 * before.grad)
    for after, before in zip(dis.parameters(), weights_before, strict=True):
        assert after.grad is None
        assert torch.equal(after, before)


@pytest.mark.parametrize("fails", [False, True])
def test_d_learns_after_a_step_of_g(fails: bool) -> None:
    """Also after one that failed half-way, as where a CUDA graph can't be made."""
    gen, dis, pictures, noise = networks()
    real = GAN.to_real(pictures, CPU)
    plain, weights_before = copy.deepcopy(dis), copy.deepcopy(list(dis.parameters()))
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (gen, dis))
    if fails:
        aim: Any = GAN.BCE._replace(g_loss=lambda logits: logits.no_such_thing)
        with pytest.raises(AttributeError):
            GAN.g_step(dis, opt_g, CPU, gen(noise), aim=aim)
    else:
        GAN.g_step(dis, opt_g, CPU, gen(noise))
    fake = gen(noise).detach()
    for net, opt in ((dis, opt_d), (plain, torch.optim.SGD(plain.parameters(), lr=0.1))):
        GAN.d_step(net, opt, CPU, real, fake)
    weights = zip(dis.parameters(), plain.parameters(), weights_before, strict=True)
    for after, other, before in weights:
        assert after.requires_grad and torch.equal(after, other)
        assert not torch.equal(after, before)


# Relative errors: of losses, of the discriminator's gradient, of the generator's (twice as deep).
ROUNDING = {torch.float32: (1e-5, 0.02, 0.02), torch.bfloat16: (0.005, 0.1, 0.25)}


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_fast_path_follows_the_plain_one(device: str, dtype: torch.dtype, norm: str) -> None:
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain = GAN.Machine(torch.device(device), torch.float32, torch.contiguous_format, device)
    fast = GAN.Machine(torch.device(device), dtype, torch.channels_last, device)
    torch.manual_seed(0)
    nets = [GAN.Generator(96, 20, 8).to(device), GAN.Discriminator(96, 8, norm).to(device)]
    opts = [torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in nets]

    def gradient(net: nn.Module) -> Tensor:
        return torch.cat([weight.grad.flatten() for weight in net.parameters()])  # type: ignore

    for _ in range(5):
        pictures = torch.randint(0, 256, (16, 96, 96, 3), dtype=torch.uint8).to(device)
        noise = torch.randn(16, 20, 1, 1).to(device)
        for turn, trained in ("d", nets[1]), ("g", nets[0]):
            same: list[nn.Module] = [
                copy.deepcopy(net).to(memory_format=fast.layout)  # type: ignore[call-overload]
                for net in nets
            ]
            still = [torch.optim.SGD(net.parameters(), 0.0) for net in same]
            results = []
            for machine, (gen, dis), (opt_g, opt_d) in (plain, nets, opts), (fast, same, still):
                if turn == "d":
                    real = GAN.to_real(pictures, machine)
                    with machine.autocast(), torch.no_grad():
                        fake = gen(noise)
                    results.append(GAN.d_step(dis, opt_d, machine, real, fake)[0])
                else:
                    with machine.autocast():
                        fake = gen(noise)
                    results.append(GAN.g_step(dis, opt_g, machine, fake))
            results += [gradient(trained), gradient(same[nets.index(trained)])]
            assert {w.dtype for net in same for w in net.parameters()} == {torch.float32}
            loss, *gradients = ROUNDING[dtype]
            bounds = loss, gradients[turn == "g"]
            for one, other, bound in zip(results[::2], results[1::2], bounds, strict=True):
                assert (one - other).norm() < bound * one.norm()


def test_ema_halves_in_its_half_life() -> None:
    assert GAN.ema_decay(1000, images=10**9, step_images=1000) == 0.5
    assert GAN.ema_decay(1000, images=10**9, step_images=250) ** 4 == pytest.approx(0.5)
    # The ramp: at 2,000 pictures seen, the half-life is 5 % of them.
    assert GAN.ema_decay(50_000, images=2_000, step_images=100) == 0.5
    assert GAN.ema_decay(50_000, images=2_000, step_images=200) == 0.25


def test_ema_averages_weights_and_statistics() -> None:
    model = GAN.Generator(32, 5, 3)
    average = copy.deepcopy(model).requires_grad_(False)
    before = copy.deepcopy(average.state_dict())
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    model(torch.randn(4, 5, 1, 1))  # moves batch norm's statistics
    GAN.update_ema(average, model, 0.75)
    for name, after in average.state_dict().items():
        if after.is_floating_point():
            expected = 0.75 * before[name] + 0.25 * model.state_dict()[name]
            torch.testing.assert_close(after, expected)


def test_draw_uses_running_statistics_and_leaves_no_trace() -> None:
    gen, *_, noise = networks()
    state = copy.deepcopy(gen.state_dict())
    alone = torch.cat([GAN.draw(gen, one) for one in noise.split(1)])
    torch.testing.assert_close(GAN.draw(gen, noise), alone)  # no picture depends on its neighbours
    assert gen.training
    now = gen.state_dict()
    assert all(torch.equal(now[name], before) for name, before in state.items())
