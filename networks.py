"""What GAN.py's networks can have instead of the report's layers and first weights."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module, Parameter
from torch.nn.utils.parametrizations import spectral_norm

from GAN import Discriminator, Generator, Layers, convolutions


class NearestConv(nn.ConvTranspose2d):
    """(N, C, S, S) to (N, C', kS, kS): every pixel k x k times, then a convolution of 3x3.

    All its pixels get equally many weights, which leaves no weave (Odena et al. 2016, Deconvolution
    and Checkerboard Artifacts). Computed as the transposed convolution of stride k whose kernel, of
    k + 2, is that of 3x3 summed up at k x k places: the same function, and for k = 2 at 4/9 of the
    arithmetic.
    """

    def __init__(self, deep: int, shallow: int, k: int, bias: bool = True) -> None:
        super().__init__(deep, shallow, 3, k, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        k = self.stride[0]
        kernel = F.avg_pool2d(F.pad(self.weight, [k - 1] * 4), k, 1, divisor_override=1)
        return F.conv_transpose2d(x, kernel, self.bias, k, 1)


class BilinearConv(nn.ConvTranspose2d):
    """(N, C, S, S) to (N, C', kS, kS): k - 1 pixels between any two, linear in both directions,
    then a convolution of k x k.

    Smoother than NearestConv, and for k = 2 at the same cost: computed as the transposed
    convolution of stride k whose kernel, of 3k - 2, is that of k x k blurred by a triangle.
    """

    def __init__(self, deep: int, shallow: int, k: int, bias: bool = True) -> None:
        super().__init__(deep, shallow, k, k, k - 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        k = self.stride[0]
        boxes = F.avg_pool2d(F.pad(self.weight, [2 * k - 2] * 4), k, 1, divisor_override=1)
        return F.conv_transpose2d(x, F.avg_pool2d(boxes, k, 1), self.bias, k, k - 1)


UP = {"nearest": NearestConv, "bilinear": BilinearConv}
SHARPNESS = 4  # of a Palette's softmax: shares near 0 and 1 without large weights


class ModulatedNorm(nn.BatchNorm2d):
    """Batch norm of (N, C, S, S) whose scale and shift are linear in the noise (N, Z, 1, 1), of
    which it takes a share.

    A simple case of self-modulation (Chen et al. 2019, On Self Modulation for Generative
    Adversarial Networks, eq. 2), which starts near plain batch norm: off by 0.02 share |z|. The
    share is a learning rate, too: whatever the gradient, Adam moves each weight by about the rate,
    and so what they make of the noise by up to that times share Σ|z|.
    """

    def __init__(self, channels: int, noise_size: int, share: float) -> None:
        super().__init__(channels, affine=False)
        self.share = share
        self.linear = nn.Linear(noise_size, 2 * channels)
        nn.init.normal_(self.linear.weight, 0, 0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:  # type: ignore[override]
        changes = self.linear(self.share * noise.flatten(1)).to(x.dtype)
        scale, shift = changes[..., None, None].chunk(2, 1)
        return torch.addcmul(shift, super().forward(x), scale + 1)


class GeneratorBlock(Module):
    """Maps (N, C, S, S) plus a convolution of 3x3 of them, normalised and rectified first (He et
    al. 2016, Identity Mappings in Deep Residual Networks, fig. 1b, of half the depth).
    """

    def __init__(self, channels: int, bias: bool = False) -> None:
        super().__init__()
        self.norm: Module = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.conv(F.relu(through(self.norm, x, noise), inplace=True))


class Palette(Module):
    """Maps (N, C, S, S) to pictures (N, 3, S, S), -1 to 1: the pixels of a picture are mixtures of
    its C colours, in shares that are the softmax of their C numbers. A colour is tanh of three
    numbers: learnt ones, plus, for every second colour, what is linear in the noise (N, Z, 1, 1).

    Drawings have few colours, in even fields with sharp outlines. So have mixtures: where a share
    is near 1, small changes of the maps no longer show. Skin, paper and ink are the same in most,
    hair is not. The colours start near greys from dark to light: if all were the same at first, no
    share would matter, and what doesn't matter isn't learnt.
    """

    greys: Tensor

    def __init__(self, colours: int, noise_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(noise_size, 3 * (colours // 2), bias=False)
        self.bias = Parameter(torch.zeros(colours, 3))
        self.register_buffer("greys", torch.linspace(-1, 1, colours)[:, None].repeat(1, 3))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        n, c, *sides = x.shape
        shares = (SHARPNESS * x.permute(0, 2, 3, 1)).softmax(3).reshape(n, -1, c)
        colours = (self.greys + self.bias).repeat(n, 1, 1)
        colours[:, 1::2] += self.linear(noise.flatten(1)).view(n, -1, 3)
        return (shares @ colours.tanh().to(x.dtype)).view(n, *sides, 3).permute(0, 3, 1, 2)


class RichGenerator(Generator):
    """Noise (N, Z, 1, 1) to pictures (N, 3, S, S), with what Generator lacks.

    like.blocks: that many residual blocks at every size but the picture's. like.full_fm: that many
    maps of the picture's size, normalised and rectified, from which a convolution of 3x3 makes the
    picture; 0: none. like.palette: a Palette of that many colours in place of tanh; 0: none.
    like.modulate: ModulatedNorm, with that share of the noise, in place of batch norm; 0: none.
    """

    def __init__(self, image_size: int, noise_size: int, fm: int, like: Layers) -> None:
        super().__init__(image_size, noise_size, fm, like)
        for i in reversed(range(len(self))):
            if isinstance(norm := self[i], nn.BatchNorm2d):
                for _ in range(like.blocks):
                    self.insert(i, GeneratorBlock(norm.num_features, like.has_bias(normed=True)))
        if maps := like.full_fm or like.palette:
            last, bias = self[-2], like.has_bias(normed=bool(like.full_fm))
            assert isinstance(last, nn.ConvTranspose2d)
            last.out_channels = maps
            last.weight = Parameter(last.weight.new_empty(fm, maps, *last.kernel_size))
            last.bias = Parameter(last.weight.new_empty(maps)) if bias else None
            last.reset_parameters()
        if like.full_fm:
            to_picture = nn.Conv2d(maps, like.palette or 3, 3, 1, 1, bias=like.has_bias(False))
            for layer in nn.BatchNorm2d(maps), nn.ReLU(inplace=True), to_picture:
                self.insert(len(self) - 1, layer)
        if like.palette:
            self[-1] = Palette(like.palette, noise_size)
        for module in list(self.modules()) if like.modulate else ():
            for name, norm in module.named_children():
                if isinstance(norm, nn.BatchNorm2d):
                    modulated = ModulatedNorm(norm.num_features, noise_size, like.modulate)
                    setattr(module, name, modulated)

    def forward(self, noise: Tensor) -> Tensor:
        x = noise
        for layer in self:
            x = through(layer, x, noise)
        return x


def through(layer: Module, x: Tensor, noise: Tensor) -> Tensor:
    """What a layer makes of maps (N, C, S, S), with the noise where it wants it."""
    takes_noise = isinstance(layer, ModulatedNorm | GeneratorBlock | Palette)
    return layer(x, noise) if takes_noise else layer(x)


class ResidualBlock(nn.Sequential):
    """Maps (N, C, S, S) plus a convolution of 3x3 of them, times 1/√2, so that they stay about as
    large (as in Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN).
    """

    def forward(self, x: Tensor) -> Tensor:
        return (x + super().forward(x)) / math.sqrt(2)


def with_blocks(layers: list[Module], norm: str, like: Layers) -> list[Module]:
    """The discriminator's layers, with like.blocks residual blocks behind every LeakyReLU, normed
    as the other layers are.
    """
    deeper, channels = list[Module](), 0
    for layer in layers:
        deeper.append(layer)
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        for _ in range(like.blocks if isinstance(layer, nn.LeakyReLU) else 0):
            bias = like.has_bias(normed=norm == "batch")
            conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=bias)
            block: list[Module] = [spectral_norm(conv) if norm == "spectral" else conv]
            block += [nn.BatchNorm2d(channels)] if norm == "batch" else []
            deeper.append(ResidualBlock(*block, nn.LeakyReLU(0.2, inplace=True)))
    return deeper


class Growing(Module):
    """A network that works on pictures of less detail at first: of its stages at the picture's end,
    `left` are still to come (Karras et al. 2018, Progressive Growing of GANs). Saved with it.
    """

    left: int

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.left)

    def set_extra_state(self, state: Tensor) -> None:
        self.left = int(state)

    @torch.no_grad()
    def grow(self) -> None:
        """Bring the next stage in, by a convolution that is 0 at first: a picture is only smoothed
        by that, and what is said of it stays the same.
        """
        for weight in self.entrance().parameters():
            weight.zero_()
        self.left -= 1

    def entrance(self) -> Module:
        """The convolution by which the next stage takes part."""
        raise NotImplementedError


class EarlyPicture(nn.Conv2d):
    """What is seen in maps (N, C, S, S) that `left` stages would still follow: the picture
    (N, 3, S, S) before tanh, or what a Palette of K colours takes, (N, K, S, S).
    """

    def __init__(self, channels: int, seen: int, left: int, bias: bool) -> None:
        super().__init__(channels, seen, 3, 1, 1, bias=bias)
        self.left = left


class GrowingGenerator(Growing, RichGenerator):
    """A RichGenerator of pictures (N, 3, S, S) which has their details, all of S, at last only.

    The picture is the sum of what is seen in the maps of each size so far, enlarged (as in Karras
    et al. 2020, Analyzing and Improving the Image Quality of StyleGAN, fig. 7b).
    """

    def __init__(self, image_size: int, noise_size: int, fm: int, like: Layers) -> None:
        super().__init__(image_size, noise_size, fm, like)
        self.side, self.left = image_size, like.grow
        places = [i for i, layer in enumerate(self) if isinstance(layer, nn.ConvTranspose2d)]
        stages = convolutions(image_size, fm, noise_size, like)
        for left in range(1, like.grow + 1):
            bias = like.has_bias(normed=False)
            early = EarlyPicture(stages[-left][0], like.palette or 3, left, bias)
            self.insert(places[-left], early)

    def entrance(self) -> Module:
        early = {x.left: x for x in self if isinstance(x, EarlyPicture)}
        return early[self.left - 1] if self.left > 1 else self[-2]

    def forward(self, noise: Tensor) -> Tensor:
        x, picture = noise, None
        *layers, last = self
        for layer in layers:
            if isinstance(layer, EarlyPicture):
                picture = added(layer(x), picture)
                if layer.left == self.left:
                    return F.interpolate(through(last, picture, noise), self.side)
            else:
                x = through(layer, x, noise)
        return through(last, added(x, picture), noise)


def added(large: Tensor, small: Tensor | None) -> Tensor:
    """Pictures plus smaller ones, if there are any, enlarged without the steps that nearest
    neighbours leave in slanting lines.
    """
    if small is None:
        return large
    return large + F.interpolate(small, large.shape[2:], mode="bilinear")


class EarlyMaps(nn.Conv2d):
    """Maps of pictures (N, 3, S, S) with 1/times of their pixels a side, for which `left` stages
    would be needed if they had them all.
    """

    def __init__(self, stage: tuple[int, ...], left: int, times: int, bias: bool) -> None:
        """stage: what convolutions() says of the one whose maps these are."""
        channels, _, kernel, stride, pad = stage
        super().__init__(3, channels, kernel, stride, pad, bias=bias)
        self.left, self.times = left, times

    def forward(self, pictures: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(F.avg_pool2d(pictures, self.times))


class GrowingDiscriminator(Growing, Discriminator):
    """A Discriminator of pictures (N, 3, S, S) which sees their details, all of S, at last only."""

    def __init__(self, image_size: int, fm: int, norm: str, dropout: float, like: Layers) -> None:
        super().__init__(image_size, fm, norm, dropout, like)
        self.left = like.grow
        places = [i for i, layer in enumerate(self) if isinstance(layer, nn.Conv2d)]
        stages = convolutions(image_size, fm, 1, like)[::-1]
        for left in range(like.grow, 0, -1):
            times = math.prod(stride for *_, stride, _ in stages[:left])
            bias = like.has_bias(normed=norm == "batch")
            self.insert(places[left] + 1, EarlyMaps(stages[left], left, times, bias))

    def entrance(self) -> Module:
        return next(a for a, b in pairwise(self) if getattr(b, "left", 0) == self.left)

    def forward(self, pictures: Tensor) -> Tensor:
        x = None if self.left else pictures
        for layer in self:
            if not isinstance(layer, EarlyMaps):
                x = x if x is None else layer(x)
            elif layer.left >= self.left:
                maps = layer(pictures)
                x = maps if x is None else x + maps
        assert x is not None
        return x


class Upscaler(nn.Sequential):
    """Pictures (N, 3, S, S) to larger ones (N, 3, 2S, 2S), of which means of 2x2 are those again.

    To the bilinear guess come details: convolutions of 3x3 on maps as small as the pictures, the
    last of which makes all four pixels (Shi et al. 2016, Real-Time Single Image and Video
    Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network).
    """

    def __init__(self, fm: int, bias: bool) -> None:
        first, *deeper, last = (
            nn.Conv2d(n, k, 3, 1, 1, bias=bias) for n, k in ((3, fm), *[(fm, fm)] * 3, (fm, 12))
        )
        blocks = [ResidualBlock(conv, nn.LeakyReLU(0.2, inplace=True)) for conv in deeper]
        super().__init__(first, *blocks, last, nn.PixelShuffle(2))

    def forward(self, pictures: Tensor) -> Tensor:  # type: ignore[override]
        guess = F.interpolate(pictures, scale_factor=2, mode="bilinear") + super().forward(pictures)
        return guess + F.interpolate(pictures - F.avg_pool2d(guess, 2), scale_factor=2)


class SuperResolved(Generator):
    """A generator whose pictures (N, 3, S, S) upscalers double, like.super_res times.

    The upscalers learn from real pictures alone (loss()), the generator and the discriminator from
    small ones alone: so while training, that is what it draws (after Denton et al. 2015, Deep
    Generative Image Models using a Laplacian Pyramid of Adversarial Networks, where each size
    learns from real pictures of half the size, too, though by a GAN of its own).
    """

    def __init__(self, small: Generator, fm: int) -> None:
        upscalers = [Upscaler(fm, small.like.has_bias(False)) for _ in range(small.like.super_res)]
        nn.Sequential.__init__(self, small, *upscalers)
        self.like = small.like

    def forward(self, noise: Tensor) -> Tensor:
        return self[0](noise) if self.training else super().forward(noise).clamp(-1, 1)

    def loss(self, real: Tensor) -> Tensor:
        """How far the upscalers are off at pictures (N, 3, S, S): the sum of the mean absolute
        differences of their values, of which each upscaler is asked for a quarter of the pictures.
        """
        large, losses = real[: math.ceil(len(real) / 4)], list[Tensor]()
        _, *upscalers = self
        for upscaler in reversed(upscalers):
            small = F.avg_pool2d(large, 2)
            losses.append(F.l1_loss(upscaler(small).float(), large.float()))
            large = small
        return torch.stack(losses).sum()

    @property
    def left(self) -> int:
        """Stages that are still to come, of a generator that grows."""
        small: Any = self[0]
        return small.left

    def grow(self) -> None:
        """Bring the next of them in."""
        small: Any = self[0]
        small.grow()


def make_generator(image_size: int, noise_size: int, fm: int, like: Layers) -> Generator:
    """The generator of pictures of that size that has these layers."""
    kind = GrowingGenerator if like.grow else RichGenerator
    small = kind(image_size >> like.super_res, noise_size, fm, like)
    return SuperResolved(small, fm) if like.super_res else small


@torch.no_grad()
def init_dcgan(net: Module) -> None:
    """First weights of the DCGAN paper, N(0, 0.02), batch norm's, as in its code, N(1, 0.02), and
    biases 0.
    """
    for name, values in net.named_parameters():
        if name.endswith("bias"):
            values.zero_()
        else:
            values.normal_(float(values.ndim == 1), 0.02)  # only batch norm's have one dimension


def init_he(net: Module) -> None:
    """init_dcgan(), but D's convolutions of variance 2 / (1.04 · fan-in), by which maps keep
    their magnitude through LeakyReLU 0.2 without batch norm (He et al. 2015, eq. 15).
    """
    init_dcgan(net)
    for weight in net.parameters() if isinstance(net, Discriminator) else ():
        if weight.ndim == 4:
            nn.init.kaiming_normal_(weight, 0.2)


def by_fan_in(net: Module, lr: float | Tensor) -> list[dict[str, Any]]:
    """A network's weights in groups for its optimiser: convolutions whose every output is made of n
    inputs, their fan-in, learn at the rate lr · share, share = 20/√n, everything else at lr.

    In proportion to init_he()'s first weights, so that a step moves all convolutions alike (as the
    equalized learning rate does; Karras et al. 2018, Progressive Growing of GANs, section 4.1).
    """
    groups = dict[float, list[Tensor]]()
    for weight in net.parameters():
        share = 20 / math.sqrt(weight[0].numel()) if weight.ndim == 4 else 1.0
        groups.setdefault(share, []).append(weight)
    return [{"params": v, "lr": lr * share, "share": share} for share, v in groups.items()]


INIT = {"dcgan": init_dcgan, "he": init_he}
