"""Makes figures of what runs have left in their folders.

    python figures.py img                       of one run: real-and-drawn.png and timelapse.gif
    python figures.py img/gan_sgd64 img/wgan_gp64 [--epochs=6,22,26] [--out=comparison.png]

The first puts real pictures beside the last grid, and all grids one after the other, with their
epochs. The second puts grids of the same epochs side by side, a row for each run, over the curves
of losses and scores against the pictures seen; without --epochs, up to four that all runs have;
without --out, into comparison.png beside the first run's folder. With one of the two, it takes a
single run as well.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from GAN import UserError, write_file


def grids(folder: Path) -> dict[int, Path]:
    """The grids of a run by their epochs, first to last."""
    found = {
        int(path.stem[6:]): path for path in folder.glob("epoch-*.png") if path.stem[6:].isdigit()
    }
    if not found:
        raise UserError(f"there is no epoch-N.png in {folder}: name the img_dir of a run")
    return dict(sorted(found.items()))


def titled(picture: Image.Image, title: str) -> Image.Image:
    """A picture, RGB, with a line of text above it."""
    font = ImageFont.load_default(size=20)
    page = Image.new("RGB", (picture.width, picture.height + 30), "white")
    page.paste(picture, (0, 30))
    ImageDraw.Draw(page).text((picture.width / 2, 15), title, "black", font, anchor="mm")
    return page


def beside(folder: Path) -> Image.Image:
    """real.png and the last grid, side by side."""
    epoch, last = list(grids(folder).items())[-1]
    if not (folder / "real.png").exists():
        raise UserError(f"there is no real.png in {folder}: name the img_dir of a run")
    pages = []
    for path, title in ((folder / "real.png", "real"), (last, f"drawn, epoch {epoch}")):
        with Image.open(path) as picture:
            pages.append(titled(picture.convert("RGB"), title))
    size = pages[0].width + 20 + pages[1].width, max(page.height for page in pages)
    both = Image.new("RGB", size, "white")  # with few pictures, real.png has fewer rows
    both.paste(pages[0], (0, 0))
    both.paste(pages[1], (pages[0].width + 20, 0))
    return both


def timelapse(folder: Path) -> bytes:
    """All grids one after the other as GIF, 200 ms each and two seconds for the last, endless."""
    pages = []
    for epoch, path in grids(folder).items():
        with Image.open(path) as picture:
            pages.append(titled(picture.convert("RGB"), f"epoch {epoch}"))
    file = io.BytesIO()
    times = [200] * (len(pages) - 1) + [2000]
    pages[0].save(file, "GIF", save_all=True, append_images=pages[1:], duration=times, loop=0)
    return file.getvalue()


def compare(folders: list[Path], epochs: list[int]) -> Figure:
    """Grids of the same epochs side by side, and below them losses and scores."""
    by_run = [grids(folder) for folder in folders]
    common = sorted(set.intersection(*(set(found) for found in by_run)))
    if missing := [epoch for epoch in epochs if epoch not in common]:
        raise UserError(f"not all runs have a grid of epoch {missing[0]}; they share {common}")
    if not common:
        raise UserError("no epoch has a grid in all of these runs")
    some = {common[round(i * (len(common) - 1) / 3)] for i in range(4)}  # the first to the last
    epochs = epochs or sorted(some)
    rows = len(folders)
    figure = Figure(figsize=(3.2 * max(3, len(epochs)), 3.2 * rows + 3.2), layout="constrained")
    parts: Any = figure.subfigures(2, height_ratios=(rows, 1))
    pictures, curves = parts
    axes = pictures.subplots(rows, len(epochs), squeeze=False)
    for line, folder, found in zip(axes, folders, by_run, strict=True):
        for part, epoch in zip(line, epochs, strict=True):
            with Image.open(found[epoch]) as picture:
                part.imshow(picture.convert("RGB"))
            part.set(xticks=[], yticks=[], title=f"epoch {epoch}")
        line[0].set_ylabel(folder.name)
    panels = curves.subplots(1, 3)
    for i, folder in enumerate(folders):
        with open(folder / "losses.csv", encoding="utf-8") as file:
            history = list(csv.DictReader(file))
        for panel, name in zip(panels, ("loss_d", "loss_g", "score"), strict=True):
            points = [(float(r["images"]), float(r[name])) for r in history if r.get(name)]
            x, y = zip(*points, strict=True) if points else ((), ())
            panel.plot(x, y, f"C{i}", marker=".", label=folder.name)
            panel.set(title=name, xlabel="pictures seen")
            panel.locator_params(axis="x", nbins=5)
            panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="the img_dir of each run")
    parser.add_argument("--epochs", default="", help="epochs to compare, with commas between them")
    parser.add_argument("--out", type=Path, help="else comparison.png beside the first folder")
    args = parser.parse_args()
    if not all(word.isdigit() for word in args.epochs.split(",") if args.epochs):
        parser.error("--epochs are whole numbers with commas between them")
    epochs = [int(word) for word in args.epochs.split(",") if word]
    try:
        if len(args.folders) > 1 or args.epochs or args.out:
            figure = compare(args.folders, epochs)
            out = args.out or args.folders[0].resolve().parent / "comparison.png"
            write_file(out, lambda file: figure.savefig(file, format="png", dpi=100))
            print(f"See {out}")
            return
        folder = args.folders[0]
        both, animation = beside(folder), timelapse(folder)
        write_file(folder / "real-and-drawn.png", lambda file: both.save(file, "PNG"))
        write_file(folder / "timelapse.gif", lambda file: file.write(animation))
        print(f"See {folder / 'real-and-drawn.png'} and {folder / 'timelapse.gif'}")
    except (UserError, OSError) as error:
        sys.exit(f"figures.py: {error}")


if __name__ == "__main__":
    main()
