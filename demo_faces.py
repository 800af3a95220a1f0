"""Draws avatar faces to train on, for whoever has no pictures yet.

    pip install python_avatars resvg_py
    python demo_faces.py [folder] [n]        # data/demo and 4096 unless told otherwise

GAN.py does it by itself when its data folder holds no pictures. Every face is a random choice
of hair, eyes, mouth and colours from the avatar set of getavataaars.com, cropped to the face.
"""

import colorsys
import ctypes
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tqdm import tqdm

from forking import STOPS, signals_wait

# A network learns what it sees often. So: many kinds of the common parts, and none that is rare,
# hides the eyes (sunglasses, helmets, curls over the face), keeps a colour of its own, sticks out
# of the frame or spoils the mood (tears, grimaces). In a row of pairs, the number says how often.
short = [
    "NONE",
    "BUZZCUT",
    "CAESAR",
    "CAESAR_SIDE_PART",
    "PIXIE",
    "SHAGGY",
    "SHORT_CURLY",
    "SHORT_DREADS_1",
    "SHORT_FLAT",
    "SHORT_ROUND",
    "SHORT_WAVED",
]
long = [
    "BOB",
    "CURLY",
    "FRO",
    "LONG_NOT_TOO_LONG",
    "MIA_WALLACE",
    "MOWGLI",
    "SHAGGY_MULLET",
    "STRAIGHT_1",
    "STRAIGHT_STRAND",
    "TWIST_LONG_HAIR",
    "WILD",
]
hats = ["HIJAB", "TURBAN", "WINTER_HAT_3"]
eyebrows = {"DEFAULT": 1, "DEFAULT_NATURAL": 1, "RAISED_EXCITED": 1, "RAISED_EXCITED_NATURAL": 1}
eyes = {"DEFAULT": 6, "HAPPY": 2, "SQUINT": 2}
noses = {"DEFAULT": 1, "SMALL": 1, "WIDE": 1}
mouths = {"SMILE": 4, "TWINKLE": 4, "DEFAULT": 2, "BIG_SMILE": 3, "SERIOUS": 1}
glasses = {"NONE": 14, "PRESCRIPTION_2": 3, "ROUND": 3}
beards = {"NONE": 5, "BEARD_LIGHT": 2, "BEARD_MEDIUM": 2, "MOUSTACHE_FANCY": 1}

# A face may have any colour between two neighbours of a ramp. The darkest skin is still light
# enough for dark eyes to show.
skin = ["#FFDFC4", "#F7CDA4", "#EDB98A", "#D9A06B", "#C68A5A", "#A66A3F", "#8A563A", "#6F4A38"]
hair = ["#2C1B18", "#4A312C", "#724133", "#A55728", "#C8602A", "#C08A48", "#DDB66F", "#EBDCC0"]
grey_hair = ["#A9A4A4", "#E8E1E1"]
bright_hair = ["#6FB7B7", "#8E7CC3", "#F08FA0"]


def pick(rng: Random, weights: dict[str, int]) -> str:
    """One of the names, as often as its weight says."""
    return rng.choices(list(weights), list(weights.values()))[0]


def blend(ramp: list[str], t: float) -> str:
    """The colour at t, from 0 (first of the ramp) to below 1 (last), as "#rrggbb"."""
    i, f = divmod(t * (len(ramp) - 1), 1)
    a, b = (bytes.fromhex(colour[1:]) for colour in ramp[int(i) : int(i) + 2])
    return "#" + bytes(round(x + f * (y - x)) for x, y in zip(a, b, strict=True)).hex()


def any_hue(rng: Random, lightness: float, saturation: float) -> str:
    """A colour from yellow through green and blue to pink: every hue but those of skin."""
    rgb = colorsys.hls_to_rgb(0.15 + 0.8 * rng.random(), lightness, saturation)
    return "#" + bytes(round(255 * c) for c in rgb).hex()


def face_svg(rng: Random) -> str:
    """One random face as SVG text, without background."""
    import python_avatars as pa

    tone = rng.random()
    ramp = rng.choices([hair, grey_hair, bright_hair], [86, 7, 7])[0]
    hair_color = blend(ramp, rng.random() ** (1 + 3 * tone))  # as in life: dark skin, dark hair
    tops = rng.choices([short, long, hats], [45, 43, 12])[0]
    bearded = tops is short and ramp is not bright_hair
    svg: str = pa.Avatar(
        top=(pa.HatType if tops is hats else pa.HairType)[rng.choice(tops)],
        hat_color=any_hue(rng, 0.45, 0.5),
        eyebrows=pa.EyebrowType[pick(rng, eyebrows)],
        eyes=pa.EyeType[pick(rng, eyes)],
        nose=pa.NoseType[pick(rng, noses)],
        mouth=pa.MouthType[pick(rng, mouths)],
        facial_hair=pa.FacialHairType[pick(rng, beards) if bearded else "NONE"],
        skin_color=blend(skin, tone),
        hair_color=hair_color,
        facial_hair_color=hair_color,
        accessory=pa.AccessoryType[pick(rng, glasses)],
        clothing=pa.ClothingType.NONE,  # would lie below the crop
    ).render()
    # The drawing is 264 x 280 units; the face fills this square of it (left, top, width, height).
    svg = re.sub('width=.+? viewBox="[^"]+"', 'viewBox="40 8 184 184"', svg, count=1)
    # Eyes, nose and mouth grow about their own centre (x, y) and darken, to show at 96 pixels.
    for part, x, y, k in ("Eyes", 56, 22, 1.3), ("Nose", 28, 12, 1.2), ("Mouth", 54, 22, 1.2):
        grow = f"translate({x * (1 - k):.1f} {y * (1 - k):.1f}) scale({k})"
        svg = re.sub(f'(id="transparent_{part}" transform="[^"]+)', rf"\1 {grow}", svg)
    svg = re.sub(r'-opacity="0\.[56]9\d+"', '-opacity="0.8"', svg)
    svg = svg.replace('-opacity="0.16"', '-opacity="0.22"')
    # Every mask is one plain shape: as a clip path it gives the same pixels in two thirds the time.
    return re.sub("(</?)mask", r"\1clipPath", svg).replace(" mask=", " clip-path=")


def save_face(index: int, folder: Path, size: int, seed: int) -> None:
    """Face number `index`, size x size pixels, as PNG in `folder`. Runs in a worker process."""
    import resvg_py

    rng = Random(f"{seed}/{index}")  # of its own: the same face whoever draws it, in any order
    background = any_hue(rng, 0.85, 0.6)
    png = resvg_py.svg_to_bytes(
        face_svg(rng), background=background, width=size, height=size, skip_system_fonts=True
    )  # there is no text: spare the search for fonts, once a face
    (folder / f"{index:05d}.png").write_bytes(png)


def belong_to_parent() -> None:
    """A worker leaves Ctrl-C, which reaches it too, to its parent, and dies with it (on Linux)."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def draw(folder: Path, n: int = 4096, size: int = 192, seed: int = 0) -> None:
    """Fills `folder` with n faces, size x size PNG; does nothing if it holds PNG files already.

    192 pixels: twice the 96 that GAN.py trains on, so that it halves evenly, and enough for 256.
    PNG: for flat colours smaller than good JPEG (8 kB a face), and free of its noise at edges.
    """
    if any(folder.glob("*.png")):
        return
    if folder.exists():
        folder.rmdir()  # it is empty, or this raises before any work is done
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(".drawing-*"):  # by a process that was killed
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left)
    # All or nothing: the faces move to `folder` once all are drawn; whatever ends this early
    # removes them.
    with TemporaryDirectory(prefix=".drawing-", dir=folder.parent) as scratch:
        part = Path(scratch, "faces")
        part.mkdir()
        with ProcessPoolExecutor(initializer=belong_to_parent) as pool:
            try:
                save = partial(save_face, folder=part, size=size, seed=seed)
                with signals_wait():
                    faces = pool.map(save, range(n), chunksize=16)  # starts the workers
                for _ in tqdm(faces, "drawing faces", n, unit=" faces", disable=None):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        try:
            part.rename(folder)
        except OSError:
            if not any(folder.glob("*.png")):  # by another process, which was sooner
                raise


def draw_if_missing(folder: Path, n: int, say: Callable[[str], object]) -> None:
    """draw() if there is no such folder, and a line about it; another if a package is missing."""
    if folder.exists():
        return
    try:
        say(f"There are no pictures yet: {n:,} avatar faces are drawn to begin with.")
        draw(folder, n)
    except ImportError as error:
        say(f"They can't be drawn, for {error.name} is missing: pip install -r requirements.txt")


def main() -> None:
    folder, n, *rest = sys.argv[1:] + ["data/demo", "4096"][len(sys.argv) - 1 :]
    if rest or folder.startswith("-") or not n.isdecimal() or int(n) == 0:
        sys.exit("usage: python demo_faces.py [folder] [n], where n, 1 or more, counts the faces")
    try:
        draw(Path(folder), int(n))
    except ImportError as error:
        sys.exit(f"{error.name} is missing: pip install python_avatars resvg_py")
    except OSError as error:
        sys.exit(f"cannot draw into {folder}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("stopped: no faces were kept")
    print(f"{len(list(Path(folder).glob('*.png')))} faces in {folder}")


if __name__ == "__main__":
    main()
