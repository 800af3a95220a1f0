"""What GAN.py's networks can have instead of the report's layers and first weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module, Parameter
from torch.nn.utils.parametrizations import spectral_norm

from GAN import Discriminator, Generator, Layers


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


class ModulatedNorm(nn.BatchNorm2d):
    """Batch norm of (N, C, S, S) whose scale and shift are linear in the noise (N, Z, 1, 1).

    A simple case of self-modulation (Chen et al. 2019, On Self Modulation for Generative
    Adversarial Networks, eq. 2), which starts near plain batch norm: off by 0.02 |z|.
    """

    def __init__(self, channels: int, noise_size: int) -> None:
        super().__init__(channels, affine=False)
        self.linear = nn.Linear(noise_size, 2 * channels)
        nn.init.normal_(self.linear.weight, 0, 0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:  # type: ignore[override]
        scale, shift = self.linear(noise.flatten(1))[..., None, None].to(x.dtype).chunk(2, 1)
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
        modulated = isinstance(self.norm, ModulatedNorm)
        normed = self.norm(x, noise) if modulated else self.norm(x)
        return x + self.conv(F.relu(normed, inplace=True))


class RichGenerator(Generator):
    """Noise (N, Z, 1, 1) to pictures (N, 3, S, S), with like.blocks residual blocks at every size
    but the last, if like.full_fm with so many maps at the last, normalised and rectified as the
    others, which a convolution of 3x3 makes the picture from, and if like.modulate with
    ModulatedNorm in place of batch norm.
    """

    def __init__(self, image_size: int, noise_size: int, fm: int, like: Layers) -> None:
        super().__init__(image_size, noise_size, fm, like)
        for i in reversed(range(len(self))):
            if isinstance(norm := self[i], nn.BatchNorm2d):
                for _ in range(like.blocks):
                    self.insert(i, GeneratorBlock(norm.num_features, like.has_bias(normed=True)))
        if maps := like.full_fm:
            last, tanh = self.pop(-2), self.pop(-1)
            assert isinstance(last, nn.ConvTranspose2d)
            last.out_channels = maps
            last.weight = Parameter(last.weight.new_empty(fm, maps, *last.kernel_size))
            last.bias = Parameter(last.weight.new_empty(maps)) if like.has_bias(True) else None
            last.reset_parameters()
            to_rgb = nn.Conv2d(maps, 3, 3, 1, 1, bias=like.has_bias(normed=False))
            self.extend([last, nn.BatchNorm2d(maps), nn.ReLU(inplace=True), to_rgb, tanh])
        for module in list(self.modules()) if like.modulate else ():
            for name, norm in module.named_children():
                if isinstance(norm, nn.BatchNorm2d):
                    setattr(module, name, ModulatedNorm(norm.num_features, noise_size))

    def forward(self, noise: Tensor) -> Tensor:
        x = noise
        for layer in self:
            wants_noise = isinstance(layer, ModulatedNorm | GeneratorBlock)
            x = layer(x, noise) if wants_noise else layer(x)
        return x


class DiscriminatorBlock(nn.Sequential):
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
            deeper.append(DiscriminatorBlock(*block, nn.LeakyReLU(0.2, inplace=True)))
    return deeper


@torch.no_grad()
def init_dcgan(net: Module) -> None:
    """First weights of the DCGAN paper: N(0, 0.02), batch norm's N(1, 0.02), biases 0."""
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


INIT = {"dcgan": init_dcgan, "he": init_he}
