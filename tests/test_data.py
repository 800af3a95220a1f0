"""Pictures of every kind, from files to batches."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import demo_faces
import GAN
import pictures

SIDE = 32
CPU = GAN.Machine(torch.device("cpu"), torch.float32, torch.channels_last, "cpu")


def decoded(path: Path, side: int = SIDE) -> np.ndarray:
    return np.frombuffer(pictures.decode(path, side), np.uint8).reshape(side, side, 3)


def plain(color: object, mode: str = "RGB", size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new(mode, size, color)  # type: ignore[arg-type]


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "color", "expected"),
    [
        ("a.png", "RGB", (10, 200, 30), (10, 200, 30)),
        ("a.bmp", "RGB", (10, 200, 30), (10, 200, 30)),
        ("a.tiff", "RGB", (10, 200, 30), (10, 200, 30)),
        ("a.jpg", "RGB", (10, 200, 30), (10, 200, 30)),
        ("a.JPEG", "L", 77, (77, 77, 77)),
        ("a.webp", "RGB", (10, 200, 30), (10, 200, 30)),
        ("a.gif", "P", 3, None),
        ("grey.png", "L", 77, (77, 77, 77)),
        ("one_bit.png", "1", 1, (255, 255, 255)),
        ("grey_alpha.png", "LA", (0, 51), (204, 204, 204)),
        ("rgba.png", "RGBA", (255, 0, 0, 102), (255, 153, 153)),
        ("hidden.png", "RGBA", (1, 2, 3, 0), (255, 255, 255)),
        ("16.png", "I;16", 77 * 257, (77, 77, 77)),
        ("16.tif", "I;16", 77 * 257, (77, 77, 77)),
        ("32.tif", "F", 77 / 255, (77, 77, 77)),
        ("cmyk.jpg", "CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("cmyk.tif", "CMYK", (0, 0, 255, 0), (255, 255, 0)),
    ],
)
def test_formats_and_modes(
    tmp_path: Path, name: str, mode: str, color: object, expected: tuple[int, ...] | None
) -> None:
    image = plain(color, mode)
    if mode == "P":
        image.putpalette([0, 0, 0] * 3 + [9, 99, 199] + [0, 0, 0] * 252)
        expected = (9, 99, 199)
    options = {"quality": 100} if image.mode != "P" else {}
    found = decoded(save(tmp_path / name, image, **options))
    assert np.abs(found.astype(int) - np.array(expected)).max() <= 3  # JPEG's and WebP's rounding


def test_palette_with_transparency_lies_over_white(tmp_path: Path) -> None:
    image = plain(0, "P")
    image.putpalette([200, 0, 0] + [0, 0, 0] * 255)
    assert (decoded(save(tmp_path / "p.png", image, transparency=0)) == 255).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [plain((255, 255, 255)), plain((0, 0, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (decoded(tmp_path / "a.gif") == 255).all()


def test_exif_orientation(tmp_path: Path) -> None:
    image = plain((0, 0, 0), size=(64, 64))
    image.paste((255, 255, 255), (0, 0, 64, 32))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise: white right
    found = decoded(save(tmp_path / "a.jpg", image, exif=exif, quality=100))
    assert found[:, 20:].min() > 240
    assert found[:, :12].max() < 15


def test_shorter_side_is_fitted_and_the_centre_cut(tmp_path: Path) -> None:
    image = plain((255, 0, 0), size=(200, 50))
    image.paste((0, 255, 0), (75, 0, 125, 50))  # the central square
    for name, turn in (("wide.png", 0), ("tall.png", 90)):
        found = decoded(save(tmp_path / name, image.rotate(turn, expand=True)))
        assert (found[2:-2, 2:-2] == (0, 255, 0)).all()
        assert found[..., 0].max() < 60  # the filter sees a pixel beyond the edge, no more
    ramp = np.tile(np.arange(96, dtype=np.uint8)[None, :, None], (96, 1, 3))
    assert (decoded(save(tmp_path / "same.png", Image.fromarray(ramp)), 96) == ramp).all()


def test_large_jpegs_are_read_at_a_fraction_with_the_same_result(tmp_path: Path) -> None:
    shades = Image.linear_gradient("L").resize((2000, 2000)).convert("RGB")
    path = save(tmp_path / "large.jpg", shades, quality=95)
    exact = np.asarray(Image.open(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC), int)
    assert np.abs(decoded(path) - exact).max() <= 2


BAD = {
    "empty.jpg": b"",
    "text.png": b"no picture at all",
    "bad zip.zip": b"PK no zip",
    "odd name.zip": b"",  # made below
}


def make_folder(folder: Path, n: int = 6) -> list[tuple[int, int, int]]:
    """Plain pictures of n colours in folders below folder; their colours in the order of names."""
    colors = [(40 * i, 255 - 40 * i, 7) for i in range(n)]
    for i, color in enumerate(colors):
        (folder / f"sub {i % 2}" / "ü").mkdir(parents=True, exist_ok=True)
        save(folder / f"sub {i % 2}" / "ü" / f"{i}.png", plain(color, size=(SIDE, SIDE)))
    return sorted(colors, key=lambda c: (c[0] // 40 % 2, c[0]))


def load(root: Path, out: Path) -> tuple[list[tuple[int, ...]], list[str]]:
    """The colours of plain pictures as loaded, and what was skipped."""
    data, skipped = GAN.load_pictures(root, SIDE, out)
    assert data.dtype == torch.uint8 and data.shape[1:] == (SIDE, SIDE, 3)
    assert (data == data[:, :1, :1]).all()
    return [tuple(color) for color in data[:, 0, 0].tolist()], skipped


def test_folders_and_zips_and_what_is_no_picture(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "img"
    colors = make_folder(root)
    (root / "README.md").write_text("no picture")
    (root / "._0.jpg").write_bytes(b"of another system")
    (root / ".hidden").mkdir()
    shutil.copy(root / "sub 0" / "ü" / "0.png", root / ".hidden" / "0.png")
    assert load(root, out) == (colors, [])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(root.glob("sub*/*/*.png")):
            archive.write(path, path.relative_to(root))
        archive.writestr("__MACOSX/sub 0/0.png", b"of another system")
    assert load(tmp_path / "all.zip", out) == (colors, [])
    shutil.copy(tmp_path / "all.zip", root / "zzz.ZIP")
    assert load(root, out) == (colors + colors, [])


def test_unreadable_pictures_are_skipped_and_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    colors = make_folder(root)
    for name, content in BAD.items():
        (root / name).write_bytes(content)
    with zipfile.ZipFile(root / "odd name.zip", "w") as archive:
        archive.writestr("ü.png", b"")
    content = (root / "odd name.zip").read_bytes()
    (root / "odd name.zip").write_bytes(content.replace("ü".encode(), b"\xff\xff"))
    whole = save(tmp_path / "whole.jpg", Image.effect_noise((300, 300), 90)).read_bytes()
    (root / "cut short.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "broken link.jpg").symlink_to(root / "nowhere.jpg")
    (root / "folder.jpg").mkdir()
    with zipfile.ZipFile(root / "in zip.zip", "w") as archive:
        archive.writestr("a/b.png", b"no picture")
    found, skipped = load(root, tmp_path / "img")
    assert found == colors
    names = [*BAD, "cut short.jpg", "broken link.jpg", "in zip.zip/a/b.png"]
    assert sorted(line.split(":")[0] for line in skipped) == sorted(names)
    again = load(root, tmp_path / "img")  # from the cache
    assert again == (found, skipped)


def test_no_readable_picture_is_one_sentence(tmp_path: Path) -> None:
    for root in (tmp_path / "missing", tmp_path):
        (tmp_path / "text.png").write_text("no picture")
        with pytest.raises(
            GAN.UserError, match=r"No picture that can be read in .*--data_dir="
        ) as e:
            load(root, tmp_path / "img")
        assert str(root) in str(e.value)


def test_links_in_a_circle_and_linked_folders(tmp_path: Path) -> None:
    colors = make_folder(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "data")
    assert load(tmp_path / "data", tmp_path / "img")[0] == colors


def test_img_dir_inside_data_dir_is_left_out(tmp_path: Path) -> None:
    colors = make_folder(tmp_path)
    save(make_dir(tmp_path / "img") / "epoch-1.png", plain((1, 1, 1)))
    assert load(tmp_path, tmp_path / "img")[0] == colors


def make_dir(path: Path) -> Path:
    path.mkdir()
    return path


def test_demo_faces_are_left_out_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    monkeypatch.setattr(pictures, "DEMO", root / "demo")
    make_dir(root)
    save(make_dir(root / "demo") / "0.png", plain((1, 2, 3), size=(SIDE, SIDE)))
    assert load(root, tmp_path / "img")[0] == [(1, 2, 3)]
    colors = make_folder(root)
    assert load(root, tmp_path / "img")[0] == colors
    assert load(root / "demo", tmp_path / "img")[0] == [(1, 2, 3)]  # asked for by name


def test_two_processes_draw_demo_faces_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "demo"

    def sooner(drawn: Iterable[None], *_: object, **__: object) -> Iterable[None]:
        (make_dir(folder) / "0.png").write_bytes(b"another's")
        return drawn

    monkeypatch.setattr(demo_faces, "tqdm", sooner)
    demo_faces.draw(folder, n=2, size=48)
    assert [path.read_bytes() for path in folder.iterdir()] == [b"another's"]
    assert list(folder.parent.iterdir()) == [folder]


def test_cache_notices_every_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "data", tmp_path / "img"
    colors = make_folder(root)
    decodings = 0
    decode_all = pictures.decode_all

    def counted(*args: object) -> list[str]:
        nonlocal decodings
        decodings += 1
        return decode_all(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "decode_all", counted)
    assert load(root, out)[0] == load(root, out)[0] == colors
    assert decodings == 1
    added = save(root / "added.png", plain((1, 2, 3), size=(SIDE, SIDE)))
    assert load(root, out)[0] == [(1, 2, 3), *colors]
    save(added, plain((3, 2, 1), size=(SIDE, SIDE)))
    os.utime(added, ns=(1, 1))
    assert load(root, out)[0] == [(3, 2, 1), *colors]
    added.unlink()
    assert load(root, out)[0] == colors
    assert decodings == 4
    cache = root / f".GAN-all-{SIDE}.cache"
    whole = cache.read_bytes()
    row = SIDE * SIDE * 3
    for damage in (b"", b"{}", whole[:-1], whole[row:], whole[:-row], b"[]" + whole[-8:]):
        cache.write_bytes(damage)
        assert load(root, out)[0] == colors
        assert cache.read_bytes() == whole
    assert decodings == 10
    assert GAN.load_pictures(root, 64, out)[0].shape[1:] == (64, 64, 3)  # a cache of its own
    assert load(root, out)[0] == colors
    assert decodings == 11


def test_read_only_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "data", tmp_path / "img"
    colors = make_folder(root)
    before = sorted(root.rglob("*"))

    def refuse(file: object, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode and Path(str(file)).parent == root:
            raise PermissionError(13, "Permission denied", str(file))
        return open(file, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(GAN, "open", refuse, raising=False)  # for root, nothing is read-only
    assert load(root, out)[0] == load(root, out)[0] == colors
    assert sorted(root.rglob("*")) == before
    assert [path.name for path in out.iterdir()] == [f".GAN-all-{SIDE}.cache"]


def test_zips_in_one_folder_have_their_own_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(2):
        with zipfile.ZipFile(tmp_path / f"{i}.zip", "w") as archive:
            png = io.BytesIO()
            plain((i, i, i), size=(SIDE, SIDE)).save(png, "PNG")
            archive.writestr("a.png", png.getvalue())
    for _ in range(2):
        for i in range(2):
            assert load(tmp_path / f"{i}.zip", tmp_path / "img")[0] == [(i, i, i)]
        # The second time from the caches:
        monkeypatch.delattr(pictures, "decode_all", raising=False)


def test_a_cache_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    side, n = 256, 2**20  # 206 GB, all a hole
    size = n * side * side * 3
    with open(tmp_path / "cache", "wb") as file:
        file.truncate(size)
    found = pictures.checksum(tmp_path / "cache", size)
    about = json.dumps({"key": "key", "size": size, "sum": found, "skipped": ["x"]}).encode()
    with open(tmp_path / "cache", "r+b") as file:
        file.seek(size)
        file.write(about + len(about).to_bytes(8, "little"))
    read = pictures.read_cache(tmp_path / "cache", side, "key")
    assert read and read[0].shape == (n, side, side, 3) and read[1] == ["x"]
    indices = [torch.tensor([0, n - 1])] * 4
    batches = list(GAN.read_ahead(read[0], indices, CPU.device))
    assert [batch.shape for batch in batches] == [(2, side, side, 3)] * 4
    assert not any(batch.any() for batch in batches)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_parallel_decoding_keeps_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    root = make_dir(tmp_path / "data")
    for i in range(600):
        png = io.BytesIO()
        plain((i % 256, i // 256, 5), size=(4, 4)).save(png, "PNG")
        (root / f"{i:03}.png").write_bytes(png.getvalue())
    (root / "300.png").write_bytes(b"bad")
    monkeypatch.setattr(
        pictures,
        "DataLoader",
        lambda *args, **kwargs: DataLoader(*args, **kwargs | {"multiprocessing_context": method}),
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    found, skipped = load(root, tmp_path / "img")
    assert found == [(i % 256, i // 256, 5) for i in range(600) if i != 300]
    assert [line.split(":")[0] for line in skipped] == ["300.png"]


def test_batches_run_from_minus_1_to_1() -> None:
    data = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 4, 4, 3)
    batch = GAN.to_real(next(GAN.read_ahead(data, [torch.tensor([2, 0, 1])], CPU.device)), CPU)
    assert batch.shape == (3, 3, 4, 4)
    torch.testing.assert_close(batch[:, 0, 0, 0], torch.tensor([1.0, -1.0, -0.6]))


def test_mirroring() -> None:
    left_dark = torch.arange(2, dtype=torch.uint8).view(1, 1, 2, 1).expand(4, 2, 2, 3) * 255
    mirrored = torch.tensor([False, True, True, False])
    batch = GAN.to_real(left_dark, CPU, mirrored)
    assert (batch[mirrored] == torch.tensor([1.0, -1.0])).all()
    assert (batch[~mirrored] == torch.tensor([-1.0, 1.0])).all()
