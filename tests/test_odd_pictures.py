"""Pictures from the internet: each is read, or skipped with its name, and none ends a run."""

from __future__ import annotations

import io
import os
import signal
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

import GAN
import pictures
from conftest import Run
from test_data import SIDE, load, make_dir, plain, save

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="names that Windows forbids")


def png(color: object = (1, 2, 3), size: tuple[int, int] = (40, 40)) -> bytes:
    plain(color, size=size).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def encrypted(archive: bytes) -> bytes:
    """A zip file with the bit set that says that its members are."""
    for mark, where in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = archive.index(mark) + where
        archive = archive[:at] + bytes([archive[at] | 1]) + archive[at + 1 :]
    return archive


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def odd_folder(root: Path) -> tuple[dict[str, tuple[int, int, int]], dict[str, str]]:
    """Odd pictures below root: the colours of those that can be read, what is wrong with others."""
    good: dict[str, tuple[int, int, int]] = {}
    bad: dict[str, str] = {}
    make_dir(root)
    for i, name in enumerate(
        ["a b.png", "new\nline.png", "😀.png", "-n.png", "%s{x}.png", "x.PNG"]
    ):
        good[name] = (i, 100, 0)
        (root / name).write_bytes(png(good[name]))
    odd = os.fsdecode(b"odd \xff.png")
    good[odd] = (9, 100, 0)
    (root / odd).write_bytes(png(good[odd]))
    good["one pixel.png"], good["strip.png"] = (0, 101, 0), (0, 102, 0)
    (root / "one pixel.png").write_bytes(png((0, 101, 0), (1, 1)))
    (root / "strip.png").write_bytes(png((0, 102, 0), (30_000, 10)))
    good["tower.png"] = (0, 103, 0)
    (root / "tower.png").write_bytes(png((0, 103, 0), (10, 30_000)))
    frames = [plain((255, 255, 255)), plain((0, 0, 0))]
    frames[0].save(root / "moving.gif", save_all=True, append_images=frames[1:])
    good["moving.gif"] = (255, 255, 255)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save(root / "cmyk.jpg", plain((0, 255, 255, 0), "CMYK"), icc_profile=profile, quality=100)
    good["cmyk.jpg"] = (255, 0, 0)
    save(root / "grey 16.png", plain(77 * 257, "I;16"))
    good["grey 16.png"] = (77, 77, 77)
    (root / "a png.jpg").write_bytes(png((0, 104, 0)))
    good["a png.jpg"] = (0, 104, 0)
    (root / "up.zip").write_bytes(
        zipped({"../evil.png": png((0, 105, 0)), "/abs/evil.png": png((0, 106, 0))})
    )
    good["up.zip/../evil.png"], good["up.zip//abs/evil.png"] = (0, 105, 0), (0, 106, 0)

    def add(name: str, content: bytes, says: str) -> None:
        (root / name).write_bytes(content)
        bad[name] = says

    add("empty.jpg", b"", "cannot identify")
    add("text.jpg", b"no picture", "cannot identify")
    add("bad\nname.jpg", b"no picture", "cannot identify")
    add(
        "program.jpg",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n",
        "cannot identify",
    )
    add("bomb.png", bomb(30_000), "decompression bomb")
    add("cut.jpg", jpeg_cut_short(), "truncated")
    add("cut.zip", zipped({"a.png": png()})[:-30], "not a zip file")
    add("empty.zip", b"", "not a zip file")
    add("locked.zip", encrypted(zipped({"a.png": png()})), "encrypted")
    bad["locked.zip/a.png"] = bad.pop("locked.zip")
    add("bad in.zip", zipped({"a.png": bytes(1000)}), "cannot identify")
    bad["bad in.zip/a.png"] = bad.pop("bad in.zip")
    make_dir(root / "folder.jpg")
    make_dir(root / "folder.zip")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "broken.zip").symlink_to(root / "nowhere.zip")
    (root / "circle").symlink_to(root)
    for name in ("pipe.jpg", "pipe.zip"):
        os.mkfifo(root / name)
        bad[name] = "it is no file"
    return good, bad | {"loop.jpg": "symbolic links", "broken.zip": "No such file"}


def jpeg_cut_short() -> bytes:
    Image.effect_noise((300, 300), 90).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()[:5000]


def test_each_is_read_or_named(gan: Run, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "img"
    good, bad = odd_folder(root)
    before = sorted(tmp_path.rglob("*"))
    found, skipped = load(root, out)
    assert sorted(found) == sorted(good.values())
    told = {line.split(": ")[0]: line for line in skipped}
    assert sorted(told) == sorted(name.replace("\n", "\\n") for name in bad)
    for name, says in bad.items():
        assert says in told[name.replace("\n", "\\n")]
    added = set(tmp_path.rglob("*")) - set(before)
    assert added == {root / f".GAN-all-{SIDE}.cache"}  # nothing is written anywhere else
    said = gan(f"--data_dir={root}", "--n_epoch=1").stdout
    assert f"{len(good)} pictures, " in said and f"{len(bad)} pictures can't be read" in said
    listed = (out / "skipped.txt").read_text("utf-8").strip().split("\n")
    assert sorted(listed) == sorted(skipped)


def test_gan_alone_names_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its plain reader leaves out what is no file, and takes grey of 16 bits for white."""
    root = tmp_path / "data"
    good, bad = odd_folder(root)
    monkeypatch.setattr(GAN, "HERE", tmp_path)  # where there is no pictures.py
    good["grey 16.png"] = (255, 255, 255)
    data, _ = GAN.load_pictures(root, SIDE, tmp_path / "img")
    found = [tuple(color) for color in data[:, 0, 0].tolist()]
    assert sorted(found) == sorted(color for name, color in good.items() if "zip" not in name)
    named = {name for name in bad if "zip" not in name and (root / name).is_file()}
    said = capsys.readouterr().out
    assert said.count("can't be read: ") == len(named)
    assert all(
        f"{root / name} can't be read: cannot" in said for name in named - {"cut.jpg", "bomb.png"}
    )


def test_a_small_zip_that_unpacks_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_BYTES", 2**20)
    members = {"a.png": png(), "b.png": bytes(2**20 + 1)}
    (make_dir(tmp_path / "data") / "x.zip").write_bytes(zipped(members))
    found, skipped = load(tmp_path / "data", tmp_path / "img")
    assert found == [(1, 2, 3)] and skipped == ["x.zip/b.png: it unpacks to more than 1 MiB"]


def test_files_that_disappear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_dir(tmp_path / "data")
    for name in "abc":
        (root / f"{name}.png").write_bytes(png())
    list_members, walk = pictures.list_members, os.walk

    def late_walk(top: Path, **how: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for found in walk(str(top), **how):
            yield found[0], found[1], [*found[2], "ghost.png"]

    def late(folder: Path, files: pictures.Files) -> list[pictures.Member]:
        (root / "b.png").unlink()
        return list_members(folder, files)

    monkeypatch.setattr(os, "walk", late_walk)
    monkeypatch.setattr(pictures, "list_members", late)
    found, skipped = load(root, tmp_path / "img")
    assert len(found) == 2 and len(skipped) == 1 and skipped[0].startswith("b.png: ")


def test_a_flipped_bit_in_the_cache_is_noticed(tmp_path: Path) -> None:
    root, out = make_dir(tmp_path / "data"), tmp_path / "img"
    for i in range(4):
        (root / f"{i}.png").write_bytes(png((i, i, i)))
    first = load(root, out)
    cache = root / f".GAN-all-{SIDE}.cache"
    whole = cache.read_bytes()
    for at in (0, 1000, 4 * SIDE * SIDE * 3 - 1):
        cache.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert load(root, out) == first and cache.read_bytes() == whole
    one = SIDE * SIDE * 3
    cache.write_bytes(whole[one : 2 * one] + whole[:one] + whole[2 * one :])  # changed places
    assert load(root, out) == first and cache.read_bytes() == whole


def test_what_a_killed_reader_has_left(tmp_path: Path) -> None:
    root = make_dir(tmp_path / "data")
    (root / "a.png").write_bytes(png())
    old, new = (root / f"..GAN-all-{SIDE}.cache.{n}.tmp" for n in (1, 2))
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    load(root, tmp_path / "img")
    assert not old.exists() and new.exists()  # which another process may be writing


def test_a_reading_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As happens when memory is short: the rest is read by one."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("takes two cores")
    root, ours, decode = make_dir(tmp_path / "data"), os.getpid(), pictures.decode
    for i in range(200):
        (root / f"{i:03}.png").write_bytes(png((i, i, i)))
    (root / "100.png").write_bytes(b"no picture")

    def deadly(file: Path, side: int) -> bytes:
        if file.name == "090.png" and os.getpid() != ours:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(file, side)

    monkeypatch.setattr(pictures, "decode", deadly)
    data, skipped = GAN.load_pictures(root, SIDE, tmp_path / "img")
    assert "is memory short?" in capsys.readouterr().out
    assert data[:, 0, 0, 0].tolist() == [i for i in range(200) if i != 100]
    assert len(skipped) == 1 and skipped[0].startswith("100.png: cannot identify")


def test_more_pixels_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 20_000)
    plain((1, 2, 3), size=(201, 100)).save(tmp_path / "large.png")
    plain((1, 2, 3), size=(1000, 1000)).save(tmp_path / "large.jpg")  # is read smaller
    with pytest.raises(ValueError, match="more than 20,000 pixels"):
        pictures.decode(tmp_path / "large.png", SIDE)
    assert len(pictures.decode(tmp_path / "large.jpg", SIDE)) == SIDE * SIDE * 3


def test_a_zip_file_with_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / f"{'z' * 240}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png())
    assert len(load(path, tmp_path / "img")[0]) == 1
    assert len(list(tmp_path.glob(".GAN-*.cache"))) == 1


def test_a_cache_that_nests_too_deep(tmp_path: Path) -> None:
    text = b"[" * 100_000
    (tmp_path / "cache").write_bytes(text + len(text).to_bytes(8, "little"))
    assert pictures.read_cache(tmp_path / "cache", SIDE, "key") is None


def test_an_emptied_data_folder_is_no_reason_for_avatars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_dir(tmp_path / "data"), make_dir(tmp_path / "img")
    monkeypatch.setattr(pictures, "DEMO", data / "demo")
    (out / "checkpoint.pt").write_bytes(b"")
    (out / "settings.json").write_text('{"pictures": 28399}')
    with pytest.raises(GAN.UserError, match="has learnt from 28,399 pictures"):
        pictures.find_pictures(data, out, data / "demo", 2)
    (out / "settings.json").write_text(f'{{"pictures": {pictures.N_DEMO}}}')
    (data / "README.md").write_text("")
    assert len(pictures.find_pictures(data, out, data / "demo", 2)[1]) == 2
    (data / "faces.rar").write_text("")
    with pytest.raises(GAN.UserError, match="rar: its name ends as no picture's does"):
        pictures.find_pictures(data, out, data / "demo", 2)
