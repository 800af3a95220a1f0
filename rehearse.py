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
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pictures import DEMO, N_DEMO, decode_all, find_pictures, list_members


def rehearse(gan: ModuleType, root: Path, img: Path) -> None:
    """Try out the settings of GAN.py (the module); UserError says what stands in a run's way.

    root and img are data_dir and img_dir as paths.
    """
    machine = gan.choose_machine(gan.device, gan.precision, gan.deterministic, gan.compile)
    if not gan.fresh:
        gan.load_checkpoint(img, gan.settings_now())
    out = Path(tempfile.mkdtemp(prefix="GAN-"))
    turn = max(gan.d_every, gan.g_every)  # batches until both networks have had one
    # CUDA graphs are made in the fourth turn; elsewhere a second's worth of steps will do
    turn = 5 * turn if machine.device.type == "cuda" else max(turn, 10)
    n = max(min(turn, 20) * gan.batch_size, 2000)  # enough to tell how fast they are read
    data, found, skipped, seconds = some_pictures(gan, root, img, out, n)
    tried = len(data) + len(skipped)
    data, reading = data[: min(turn, 20) * gan.batch_size], seconds * found / tried
    import matplotlib.figure  # noqa: F401 # now, and not beside the steps that are timed
    import torchvision.utils  # noqa: F401

    if gan.score_by != "none":
        with suppress(ImportError):  # training says so
            import evaluate  # noqa: F401

    batch = min(gan.batch_size, len(data))
    half = math.ceil(turn / (len(data) // batch))  # epochs of these pictures until both had a turn
    history = gan.train(out, data, machine, n_epoch=2 * half)
    before, after = history[half - 1], history[-1]  # the first half only warms up
    rate = (after["images"] - before["images"]) / (after["seconds"] - before["seconds"])
    images = gan.n_epoch * max(1, found // gan.batch_size) * batch

    say = gan.say
    say(f"\nIt works. See {out} for what came out; nothing was written elsewhere.")
    say(f"pictures: {found:,} found; {len(skipped)} of {tried:,} tried can't be read")
    for line in skipped[:10]:
        say(f"  {line}")
    say(f"time: {gan.in_time(reading)} to read them, once; {gan.in_time(images / rate)} to train")
    say(f"  {gan.n_epoch} epochs at {rate:.0f} pictures/s on {machine.name}")
    say("  (grids and scores left out)")
    used, there = memory(machine.device)
    say(f"memory: {used / 1e9:.1f} GB of {there / 1e9:.1f} GB")
    if used > there:
        raise gan.UserError("There is not enough memory: use a smaller --batch_size or --gen_fm.")
    cached = any(root.glob(f".GAN-*-{gan.image_size}.cache"))
    grids = sum((out / f"epoch-1{kind}.png").stat().st_size for kind in ("", "-loss"))
    sizes = [file.stat().st_size for file in out.glob("*.pt")]
    checkpoints = sum(sizes) + max(sizes)  # while a new one is written
    check_disk(gan, root, 0 if cached else found * gan.image_size**2 * 3, may_be_read_only=True)
    check_disk(gan, img, checkpoints + grids * (2 + gan.n_epoch // gan.save_every))


def check_disk(gan: ModuleType, folder: Path, need: int, may_be_read_only: bool = False) -> None:
    """Say how much room there is; an error where need bytes don't fit or nothing can be made."""
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    gan.say(f"disk: {need / 1e9:.2f} GB for {gan.show(folder)}, with {free / 1e9:.2f} GB free")
    if need > free:
        raise gan.UserError(f"There is not enough room on the disk of {gan.show(folder)}.")
    if not may_be_read_only:
        tempfile.TemporaryFile(dir=place).close()  # an OSError says what is wrong


def some_pictures(
    gan: ModuleType, root: Path, img: Path, out: Path, n: int
) -> tuple[Tensor, int, list[str], float]:
    """About n pictures, uint8 (n, S, S, 3); how many there are; unreadable ones among the n;
    seconds that it took to decode those.
    """
    demo = DEMO if DEMO.exists() else out / "demo"
    few = min(n, max(640, gan.batch_size), N_DEMO)  # avatars, which take longer to draw
    folder, files = find_pictures(root, img, demo, few)
    members = list_members(folder, files)
    pixels, side = out / "pictures", gan.image_size
    pixels.touch()
    start = time.perf_counter()
    skipped = decode_all(folder, members[:: max(1, len(members) // n)], side, str(pixels))
    seconds = time.perf_counter() - start
    if not (size := pixels.stat().st_size):
        raise gan.no_pictures(root, skipped)
    data = torch.from_file(str(pixels), size=size, dtype=torch.uint8).view(-1, side, side, 3)
    with suppress(OSError):  # Windows deletes no mapped file
        pixels.unlink()
    return data, N_DEMO if folder == out / "demo" else len(members), skipped, seconds


def advice_on_memory(gan: ModuleType, machine: Any) -> str:
    """What to do when a GPU's memory was not enough: the batch_size that is, found by halving."""
    settings, batch = {name: getattr(gan, name) for name in gan.RULES}, gan.batch_size
    machine = replace(machine, graphs=False)
    while batch := batch // 2:
        torch.cuda.empty_cache()
        with suppress(torch.OutOfMemoryError):
            parts = gan.build(settings, machine)
            aim = gan.choose_objective(settings, batch)
            d_turn, _, g_turn = gan.build_turns(parts, machine, aim)
            side, about = gan.image_size, {"dtype": torch.uint8, "device": machine.device}
            noise = torch.randn(batch, gan.noise_size, 1, 1, device=machine.device)
            pictures = torch.zeros(batch, side, side, 3, **about)
            for _ in range(2):  # the second with all that an optimiser keeps
                d_turn(noise, pictures)
                g_turn(noise, *([pictures] if aim.paired else []))
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
