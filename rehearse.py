"""What --dry_run=True does: a few real steps in a temporary folder, and what a whole run will cost.

Everything happens once, with the settings as they are and pictures from the data folder: decoding,
steps of both networks, grids, curves, checkpoint. Nothing is written anywhere else.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor


def rehearse(gan: ModuleType) -> None:
    """Try out the settings of GAN.py (the module); UserError says what stands in a run's way."""
    machine = gan.choose_machine(gan.device, gan.precision)
    out = Path(tempfile.mkdtemp(prefix="GAN-"))
    turn = max(gan.d_every, gan.g_every)  # batches until both networks have had one
    start = time.perf_counter()
    data, found, skipped = some_pictures(gan, turn * gan.batch_size, out)
    reading = (time.perf_counter() - start) * found / (len(data) + len(skipped))

    batch = min(gan.batch_size, len(data))
    half = math.ceil(turn / (len(data) // batch))  # epochs of these pictures until both had a turn
    history = gan.train(out, data, machine, n_epoch=2 * half)
    before, after = history[half - 1], history[-1]  # the first half only warms up
    rate = (after["images"] - before["images"]) / (after["seconds"] - before["seconds"])
    images = gan.n_epoch * max(1, found // gan.batch_size) * batch

    say = gan.say
    say(f"\nIt works. See {out} for what came out; nothing was written elsewhere.")
    say(f"pictures: {found:,} found; {len(skipped)} of {len(data) + len(skipped):,} unreadable")
    for line in skipped[:10]:
        say(f"  {line}")
    say(f"time: {gan.duration(reading)} to read them, once; {gan.duration(images / rate)} to train")
    say(f"  {gan.n_epoch} epochs at {rate:.0f} pictures/s on {machine.name}, grids left out")
    say(f"memory: {memory(machine.device)}")
    grids = sum(file.stat().st_size for file in out.glob("epoch-1*.png"))
    checkpoints = 2 * sum(file.stat().st_size for file in out.glob("*.pt"))  # an old and a new one
    for folder, need in (
        (gan.HERE / gan.data_dir, found * gan.image_size**2 * 3),
        (gan.HERE / gan.img_dir, checkpoints + grids * (2 + gan.n_epoch // gan.save_every)),
    ):
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free
        say(f"disk: {need / 1e9:.2f} GB for {gan.show(folder)}, with {free / 1e9:.2f} GB free")
        if need > free:
            raise gan.UserError(f"There is not enough room on the disk of {gan.show(folder)}.")


def some_pictures(gan: ModuleType, n: int, out: Path) -> tuple[Tensor, int, list[str]]:
    """About n pictures, uint8 (n, S, S, 3); how many there are; unreadable ones among the n."""
    root, n_demo = gan.HERE / gan.data_dir, 0
    files = gan.list_files(root, leave_out=(gan.HERE / gan.img_dir, gan.DEMO))
    if not files and root == gan.DEMO.parent:
        root, n_demo = (gan.DEMO, 0) if gan.DEMO.exists() else (out / "demo", gan.N_DEMO)
        files = gan.list_files(gan.draw_demo(root, n))
    folder = root.parent if root.is_file() else root
    members = gan.list_members(folder, [name for name, *_ in files])
    pixels, side = io.BytesIO(), gan.image_size
    skipped = gan.decode_all(folder, members[:: max(1, len(members) // n)], side, pixels)
    data = torch.frombuffer(pixels.getbuffer(), dtype=torch.uint8).view(-1, side, side, 3)
    return data, n_demo or len(members), skipped


def memory(device: torch.device) -> str:
    """The most memory in use so far, and how much there is, in words."""
    if device.type == "cuda":
        used, there = torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
    elif sys.platform == "win32":
        return "not measured on Windows"
    else:
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{used / 1e9:.1f} GB at most, of {there / 1e9:.1f} GB"
