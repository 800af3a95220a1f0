"""What --dry_run=True does: a few real steps in a temporary folder, and what a whole run will cost.

Everything happens once, with the settings as they are and pictures from the data folder: decoding,
steps of both networks, grids, curves, checkpoint. Nothing is written anywhere else.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import GAN
from pictures import DEMO, N_DEMO, decode_all, find_pictures, list_members, no_pictures
from safety import RunFolder, load_checkpoint

in_time = tqdm.format_interval  # seconds as h:mm:ss


def rehearse(root: Path, img: Path) -> None:
    """Try out the settings of GAN.py; UserError says what stands in a run's way.

    root and img are data_dir and img_dir as paths.
    """
    machine = GAN.choose_machine(GAN.device, GAN.precision, GAN.deterministic, GAN.compile)
    if not GAN.fresh:
        load_checkpoint(img, GAN.settings_now())
    out = Path(tempfile.mkdtemp(prefix="GAN-"))
    # batches until both networks have had one, D with penalties
    turn = max(GAN.d_every * GAN.gp_every, GAN.g_every)
    # CUDA graphs are made in the fourth turn; elsewhere a second's worth of steps will do
    turn = 5 * turn if machine.device.type == "cuda" else max(turn, 10)
    n = max(min(turn, 20) * GAN.batch_size, 2000)  # enough to tell how fast they are read
    data, found, skipped, seconds = some_pictures(root, img, out, n)
    tried = len(data) + len(skipped)
    data, reading = data[: min(turn, 20) * GAN.batch_size], seconds * found / tried
    import matplotlib.figure  # noqa: F401 # now, and not beside the steps that are timed
    import torchvision.utils  # noqa: F401

    if GAN.score_by != "none":
        with suppress(ImportError):  # training says so
            import evaluate  # noqa: F401

    batch = min(GAN.batch_size, len(data))
    half = math.ceil(turn / (len(data) // batch))  # epochs of these pictures until both had a turn
    folder = RunFolder(out)
    history = GAN.train(folder, data, machine, n_epoch=2 * half)
    folder.close()
    before, after = history[half - 1], history[-1]  # the first half only warms up
    rate = (after["images"] - before["images"]) / (after["seconds"] - before["seconds"])
    epoch = max(1, found // GAN.batch_size) * batch  # pictures
    epochs = min(GAN.n_epoch, 60 * GAN.minutes * rate / epoch or math.inf)

    say = GAN.say
    say(f"\nIt works. See {out} for what came out; nothing was written elsewhere.")
    say(f"pictures: {found:,} found; {len(skipped)} of {tried:,} tried can't be read")
    for line in skipped[:10]:
        say(f"  {line}")
    long = in_time(epochs * epoch / rate)
    say(f"time: {in_time(reading)} to read them, once; {long} to train")
    many = f"{epochs:.1f}".removesuffix(".0")
    say(f"  {many} epochs at {rate:.0f} pictures/s on {machine.name}")
    say(f"  (grids and scores left out{'; faster until the networks grow' if GAN.grow else ''})")
    used, there = memory(machine.device)
    all_pictures = found * GAN.image_size**2 * 3
    if machine.device.type == "cuda" and 2 * all_pictures < there:  # then training keeps them there
        used += all_pictures
    say(f"memory: {used / 1e9:.1f} GB of {there / 1e9:.1f} GB")
    if used > there:
        raise GAN.UserError("There is not enough memory: use a smaller --batch_size or --gen_fm.")
    cached = any(root.glob(f".GAN-*-{GAN.image_size}.cache"))
    grids = sum((out / f"epoch-1{kind}.png").stat().st_size for kind in ("", "-loss"))
    sizes = [file.stat().st_size for file in out.glob("*.pt")]
    checkpoints = sum(sizes) + max(sizes)  # while a new one is written
    check_disk(root, 0 if cached else all_pictures, may_be_read_only=True)
    check_disk(img, checkpoints + grids * (2 + int(epochs) // GAN.save_every))


def check_disk(folder: Path, need: int, may_be_read_only: bool = False) -> None:
    """Say how much room there is; an error where need bytes don't fit or nothing can be made."""
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    GAN.say(f"disk: {need / 1e9:.2f} GB for {GAN.show(folder)}, with {free / 1e9:.2f} GB free")
    if need > free:
        raise GAN.UserError(f"There is not enough room on the disk of {GAN.show(folder)}.")
    if not may_be_read_only:
        tempfile.TemporaryFile(dir=place).close()  # an OSError says what is wrong


def some_pictures(root: Path, img: Path, out: Path, n: int) -> tuple[Tensor, int, list[str], float]:
    """About n pictures, uint8 (n, S, S, 3); how many there are; unreadable ones among the n;
    seconds that it took to decode those.
    """
    demo = DEMO if DEMO.exists() else out / "demo"
    few = min(n, max(640, GAN.batch_size), N_DEMO)  # avatars, which take longer to draw
    folder, files = find_pictures(root, img, demo, few)
    members = list_members(folder, files)
    pixels, side = out / "pictures", GAN.image_size
    pixels.touch()
    start = time.perf_counter()
    skipped = decode_all(folder, members[:: max(1, len(members) // n)], side, str(pixels))
    seconds = time.perf_counter() - start
    if not (size := pixels.stat().st_size):
        raise no_pictures(root, skipped)
    data = torch.from_file(str(pixels), size=size, dtype=torch.uint8).view(-1, side, side, 3)
    with suppress(OSError):  # Windows deletes no mapped file
        pixels.unlink()
    return data, N_DEMO if folder == out / "demo" else len(members), skipped, seconds


def say_if_long(rate: float, left: int, machine: GAN.Machine) -> None:
    """Say how long `left` pictures take at this rate, if that is long, and what is quicker."""
    if left / rate > 1800:
        GAN.say(f"At {rate:.0f} pictures/s, this run takes {in_time(left / rate)} from here.")
        recipe = GAN.HERE / "recipes" / "best96.py"
        if machine.device.type == "cpu" and recipe.exists() and "best96" not in str(sys.argv):
            GAN.say("Without a GPU, faces come soonest with: python GAN.py recipes/best96.py")


def advice_on_memory() -> str:
    """What to do when a GPU's memory was not enough: the batch_size that is, found by halving."""
    settings, batch = GAN.settings_now(), GAN.batch_size
    machine = GAN.choose_machine(GAN.device, GAN.precision, GAN.deterministic, GAN.compile)
    root, img = GAN.full_path(GAN.data_dir), GAN.full_path(GAN.img_dir)
    data, _ = GAN.load_pictures(root, GAN.image_size, img)
    torch.cuda.empty_cache()
    if 2 * data.nbytes < torch.cuda.mem_get_info()[0]:  # as training does
        data = data.to(machine.device)
    while batch := batch // 2:
        torch.cuda.empty_cache()
        with suppress(torch.OutOfMemoryError):
            parts = GAN.build(settings, machine)
            aim = GAN.choose_objective(settings, batch, parts)
            aim.schedule(0.5)  # networks that grow are largest from there on
            steps = GAN.build_steps(parts, machine, aim)
            noise = torch.randn(batch, GAN.noise_size, 1, 1, device=machine.device)
            shape = batch, GAN.image_size, GAN.image_size, 3
            pictures = torch.zeros(shape, dtype=torch.uint8, device=machine.device)
            for kind in ((True, True, True), (True, False, True)):
                for _ in range(4):  # optimisers keep more from the first on, the fourth is a graph
                    steps[kind](noise, pictures)
            return f"--batch_size={batch} fits."
    return "Not even a batch of one fits: use smaller --gen_fm and --dis_fm."


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes in use at most so far, and in all: of the GPU or, outside Windows, of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
    if sys.platform == "win32":
        return 0, 0
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, there
