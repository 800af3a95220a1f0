"""Reads pictures: folders and zip files, on all cores, decoded once and kept in a file beside them.

load() is what GAN.load_pictures() returns where this file is there; without it, GAN.py reads plain
files one by one.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import GAN
from forking import signals_wait
from GAN import ENDINGS, FORMATS, HERE, UserError, say, show, write_file

DEMO, N_DEMO = HERE / "data" / "demo", 4096  # avatar faces, until there are pictures
# Small files may unpack to any size: the bytes of a picture in a zip file, the pixels of a picture
# (a JPEG's after it is read smaller), each of which takes up to 16 bytes on the way.
MOST_BYTES, MOST_PIXELS = 2**29, 2**26
Files = list[tuple[str, int, int]]  # below data_dir: name, bytes, time of change in ns
Member = tuple[str, str]  # a file below data_dir and, if it is a zip file, a name inside it


def decode(file: Path | BinaryIO, side: int) -> bytes:
    """A picture as side x side x 3 bytes: upright, over white, shorter side fitted, centre cut."""
    with Image.open(file, formats=FORMATS) as opened:
        opened.draft("RGB", (2 * side, 2 * side))  # spares most of the work on large JPEGs
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith(("I", "F")):  # grey of 16 or 32 bits, which PIL would clip at 255
        grey = np.nan_to_num(np.asarray(image, np.float32))
        white = 65535 if image.mode != "F" else 1 if grey.max() <= 1 else 255
        image = Image.fromarray((grey * (255 / white)).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC).tobytes()


def one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")


def regular(path: Path) -> Path:
    """The path of a file; an OSError if it is a pipe, at which one would wait, or a folder, which
    stands for its pictures where they can't be listed.
    """
    if path.is_dir():
        os.listdir(path)
    if path.exists() and not path.is_file():
        raise OSError("it is no file")
    return path


def no_pictures(root: Path, skipped: Sequence[str] = ()) -> UserError:
    missing = "" if root.exists() else ", which is not there"
    return UserError(
        f"No picture that can be read in {show(root)}{missing}. Put JPEG, PNG, WebP, BMP, GIF or "
        "TIFF files there, in folders or zip files, or name another place (GAN.py: --data_dir=...)."
        + "".join(f"\n  {line}" for line in skipped[:10])
    )


def list_files(
    root: Path, leave_out: Sequence[Path] = (), endings: tuple[str, ...] = (*ENDINGS, ".zip")
) -> Files:
    """Picture and zip files below root, or root itself, sorted; or those with other endings."""
    names = [str(root)] if root.is_file() else []
    closed: list[OSError] = []  # folders that can't be listed
    seen = {os.path.realpath(path) for path in leave_out if path != root}
    for folder, folders, files in os.walk(root, onerror=closed.append, followlinks=True):
        real = os.path.realpath(folder)
        of_a_run = {".lock", "settings.json"} <= set(files)  # what it draws is not to learn from
        if real in seen or of_a_run:  # to be left out, or a circle of links
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [os.path.join(folder, name) for name in files if not name.startswith(".")]
    found, start = [], root if root.is_dir() else root.parent
    names = [name for name in names if name.lower().endswith(endings)]
    gone = NotADirectoryError, FileNotFoundError  # of a root that is a file, or not there
    names += [error.filename for error in closed if not isinstance(error, gone)]
    for name in sorted(names):
        try:
            about = os.stat(name, follow_symlinks=os.path.exists(name))  # broken links: their own
            when = about.st_mtime_ns if os.access(name, os.R_OK) else 0  # once it may be read: new
            found.append((os.path.relpath(name, start), about.st_size, when))
        except FileNotFoundError:  # it was there just now
            pass
        except OSError:  # reading it will say why
            found.append((os.path.relpath(name, start), 0, 0))
    return found


def list_members(folder: Path, files: Files) -> list[Member]:
    """Every picture in these files; a zip file that can't be read stands for itself."""
    members = []
    for name, *_ in files:
        inside = [""]
        if name.lower().endswith(".zip"):
            with suppress(Exception), zipfile.ZipFile(regular(folder / name)) as archive:
                inside = [m for m in sorted(archive.namelist()) if m.lower().endswith(ENDINGS)]
        members += [(name, member) for member in inside if "__MACOSX" not in member]
    return members


open_zip = lru_cache(maxsize=4)(zipfile.ZipFile)  # its list of names takes long to read


def decode_some(
    folder: Path, side: int, target: str, some: list[tuple[int, Member]]
) -> dict[int, str]:
    """Decode pictures into their rows of a file; returns {row: what is wrong} of bad ones."""
    warnings.filterwarnings("ignore", module="PIL")  # about pictures that it reads all the same
    pixels, bad = bytearray(), {}
    for row, (name, member) in some:
        try:
            file: Any = regular(folder / name)
            if name.lower().endswith(".zip"):
                if (archive := open_zip(file)).getinfo(member).file_size > MOST_BYTES:
                    raise ValueError(f"it unpacks to more than {MOST_BYTES >> 20} MiB")
                file = io.BytesIO(archive.read(member))
            pixels += decode(file, side)
        except Exception as error:  # one picture, whatever is wrong with it, ends no run
            pixels += bytes(side * side * 3)
            bad[row] = one_line(f"{name}{'/' if member else ''}{member}: {error}")
    with open(target, "r+b") as file:
        file.seek(some[0][0] * side * side * 3)
        file.write(pixels)
    return bad


def decode_all(folder: Path, members: list[Member], side: int, target: str) -> list[str]:
    """Decode pictures into an empty file, in order and in parallel; returns what can't be read."""
    linux = sys.platform == "linux"
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    workers = cores if min(cores, len(members) // 64) > 1 else 0  # starting them has a cost, too:
    # forked ones are there at once; spawned ones, the only kind elsewhere, import torch first.
    start: Any = {"multiprocessing_context": "fork" if linux else "spawn"} if workers else {}
    size = min(128, len(members) // (8 * cores) + 1)
    start |= {"num_workers": workers, "collate_fn": partial(decode_some, folder, side, target)}
    load: Any = DataLoader(list(enumerate(members)), size, **start)  # type: ignore[arg-type]
    with signals_wait():
        results = iter(load)  # starts the workers
    bad: dict[int, str] = {}
    done = 0  # which a bar that is not shown doesn't count
    with tqdm(total=len(members), desc="reading pictures", disable=None) as bar:
        try:
            for found in results:
                bad |= found
                bar.update(min(size, len(members) - done))
                done += size
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            say("A process that reads pictures was killed (is memory short?): going on with one.")
            rest = list(enumerate(members))[done:]  # batches come in their order
            for some in (rest[i : i + size] for i in range(0, len(rest), size)):
                bad |= decode_some(folder, side, target, some)
                bar.update(len(some))
    open_zip.cache_clear()
    if bad:  # close their gaps
        rows = np.memmap(target, np.uint8, "r+").reshape(len(members), -1)
        good, first = np.delete(np.arange(len(members)), list(bad)), min(bad)
        for new, old in enumerate(good[first:], first):
            rows[new] = rows[old]
        del rows  # Windows cuts no mapped file
        os.truncate(target, len(good) * side * side * 3)
    return list(bad.values())


def find_pictures(root: Path, out: Path, demo: Path, n_demo: int) -> tuple[Path, Files]:
    """Where pictures are, and list_files() there: in root, or avatars in demo if data/ is empty.

    UserError if it holds other files only, or if it is empty, and the run in out that is to go on
    has learnt from others.
    """
    files = list_files(root, leave_out=(out, DEMO))
    if not files and root == DEMO.parent and (HERE / "demo_faces.py").exists():
        from demo_faces import draw_if_missing

        for name, *_ in list_files(root, leave_out=(out, DEMO), endings=("",)):
            if name != "README.md":
                raise no_pictures(root, [f"{one_line(name)}: its name ends as no picture's does"])
        n = N_DEMO
        with suppress(OSError, ValueError, KeyError, TypeError):
            n = int(json.loads((out / "settings.json").read_text("utf-8"))["pictures"])
        if n != N_DEMO and not GAN.fresh and any(out.glob("checkpoint*.pt")):
            raise UserError(
                f"{show(root)} is empty, but the run in {show(out)} has learnt from {n:,} pictures."
                " Put them back, say where they are, or begin anew with --fresh=True or another"
                " --img_dir."
            )

        draw_if_missing(demo, n_demo, say)
        root, files = demo, list_files(demo)
    return root.parent if root.is_file() else root, files


def load(root: Path, side: int, out: Path) -> tuple[Tensor, list[str]]:
    """All pictures below root, uint8 (N, side, side, 3), and what is wrong with unreadable ones.

    They are decoded once, into a file beside them, or in out where that can't be written: all
    bytes, then JSON with a key made of the files' names, sizes and times, and a checksum, then the
    JSON's length.
    """
    folder, files = find_pictures(root, out, DEMO, N_DEMO)
    if not files:
        raise no_pictures(root)
    key = hashlib.sha256(json.dumps([1, side, files]).encode()).hexdigest()
    what = root.name if root.is_file() else "all"
    if len(os.fsencode(what)) > 150:  # a file's name has 255 bytes at most
        what = key[:16]
    name = f".GAN-{what}-{side}.cache"
    for left in folder.glob(f".{glob.escape(name)}.*.tmp"):  # by a process that was killed
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:  # nobody writes it any more
                left.unlink()
    if cached := read_cache(folder / name, side, key) or read_cache(out / name, side, key):
        return cached

    def write(file: BinaryIO) -> None:
        skipped = decode_all(folder, list_members(folder, files), side, file.name)
        if not (size := file.seek(0, os.SEEK_END)):
            raise no_pictures(root, skipped)
        about = {"key": key, "size": size, "sum": checksum(file.name, size), "skipped": skipped}
        text = json.dumps(about).encode()
        file.write(text + len(text).to_bytes(8, "little"))

    try:
        write_file(folder / name, write)
    except OSError:  # read-only, or full
        write_file(out / name, write)
    pictures = read_cache(folder / name, side, key) or read_cache(out / name, side, key)
    assert pictures, "the pictures just written can't be read back"
    return pictures


def checksum(path: str | Path, size: int) -> int:
    """CRC-32 of a file's first `size` bytes; above 4 GB, of as much of them."""
    whole, part, so_far = np.memmap(path, np.uint8, "r", shape=size), 2**27, 0
    starts = range(0, size, part * (1 + size // 2**32))
    for i in tqdm(starts, "checking pictures", leave=False, delay=2, disable=None):
        so_far = zlib.crc32(whole[i : i + part].data, so_far)
    return so_far


def read_cache(cache: Path, side: int, key: str) -> tuple[Tensor, list[str]] | None:
    """What load_pictures() returns, mapped into memory, if the file is whole and has this key."""
    try:
        with open(cache, "rb") as file:
            end = file.seek(-8, os.SEEK_END)
            size = end - int.from_bytes(file.read(8), "little")
            file.seek(size)
            about = json.loads(file.read(end - size))
            if (about["key"], about["size"], about["sum"]) != (key, size, checksum(cache, size)):
                return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    warnings.filterwarnings("ignore", ".*not writable")  # nor does anybody write
    pixels = torch.from_numpy(np.memmap(cache, np.uint8, "r", shape=size))
    return pixels.view(-1, side, side, 3), about["skipped"]


def read_ahead(data: Tensor, indices: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """What GAN.read_ahead() returns: pictures at each index.

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
