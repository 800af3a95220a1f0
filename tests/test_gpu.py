"""What only a CUDA device can show."""

from __future__ import annotations

import copy
import csv
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import GAN
from conftest import ROOT, Run

pytestmark = pytest.mark.gpu


def test_a_step_is_the_same_as_on_the_cpu() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    gen, dis = GAN.Generator(96, 100, 8), GAN.Discriminator(96, 8)
    pictures = torch.randint(0, 256, (16, 96, 96, 3), dtype=torch.uint8)
    noise = torch.randn(16, 100, 1, 1)
    results = []
    for device in ("cpu", "cuda"):
        machine = GAN.choose_machine(device, "fp32")
        g = copy.deepcopy(gen).to(machine.device).to(memory_format=machine.layout)
        d = copy.deepcopy(dis).to(machine.device).to(memory_format=machine.layout)
        opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
        x, z = pictures.to(machine.device), noise.to(machine.device)
        fake = g(z)
        result, _ = GAN.d_step(d, opt_d, machine, GAN.to_real(x, machine), fake.detach())
        loss_g = GAN.g_step(d, opt_g, machine, fake)
        results.append([result, loss_g, *d.parameters(), *g.parameters()])
    for on_cpu, on_cuda in zip(*results, strict=True):
        torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-3, atol=1e-4)


def test_nothing_in_a_step_waits_for_the_device() -> None:
    machine = GAN.choose_machine("cuda", "auto")
    gen, dis = GAN.Generator(96, 100, 8).cuda(), GAN.Discriminator(96, 8).cuda()
    average = copy.deepcopy(gen).requires_grad_(False)
    opt_g, opt_d = (torch.optim.Adam(n.parameters(), 2e-4, fused=True) for n in (gen, dis))
    parts = {"gen": gen, "dis": dis, "average": average, "opt_g": opt_g, "opt_d": opt_d}
    machine = dataclasses.replace(machine, graphs=False)
    step = GAN.build_steps(parts | {"scaler": machine.scaler}, machine, GAN.BCE)[True, False, True]
    rng = torch.Generator("cuda").manual_seed(0)
    data = torch.zeros(64, 96, 96, 3, dtype=torch.uint8, device="cuda")
    sums = torch.zeros(4, device="cuda")
    for turn in range(2):  # the first finds algorithms and may wait
        torch.cuda.set_sync_debug_mode("error" if turn else "default")
        try:
            index = torch.randperm(64, generator=rng, device="cuda")[:16]
            noise = torch.randn(16, 100, 1, 1, generator=rng, device="cuda")
            pictures = data[index]
            mirrored = torch.rand(16, generator=rng, device="cuda") < 0.5
            sums += step(noise, pictures, mirrored)
            GAN.update_ema(average, gen, 0.9)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sums.isfinite().all()


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_graph_does_what_its_steps_do(norm: str) -> None:
    machine = GAN.choose_machine("cuda", "fp32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    results = []
    for graph in (False, True):
        torch.manual_seed(0)
        gen, dis = GAN.Generator(32, 5, 8).cuda(), GAN.Discriminator(32, 8, norm).cuda()
        opt_g, opt_d = (torch.optim.SGD(net.parameters(), 0.1, fused=True) for net in (gen, dis))
        parts = {"gen": gen, "dis": dis, "average": None, "opt_g": opt_g, "opt_d": opt_d}
        this = dataclasses.replace(machine, graphs=graph)
        steps = GAN.build_steps(parts | {"scaler": machine.scaler}, this, GAN.BCE)
        turns = [steps[True, False, g] for g in (False, True)]
        rng, sums = torch.Generator("cuda").manual_seed(1), torch.zeros(8, 4, device="cuda")
        for k in range(8):
            pictures = torch.randint(0, 256, (16, 32, 32, 3), generator=rng, device="cuda")
            noise = torch.randn(16, 5, 1, 1, generator=rng, device="cuda")
            for turn in turns:
                sums[k] += turn(noise, pictures.byte())
        if graph:
            assert all(turn.calls == 8 for turn in turns)  # captured, not fallen back
        state = [*gen.state_dict().values(), *dis.state_dict().values()]
        results.append([sums, *(value.float() for value in state)])
    for plain, graphed in zip(*results, strict=True):
        torch.testing.assert_close(graphed, plain, rtol=1e-2, atol=1e-3)


def test_what_cannot_be_captured_runs_as_it_is() -> None:
    code = """
import torch, GAN
from cuda_graph import Graph
GAN.choose_machine("cuda", "fp32")  # its stream allows graphs
turn = Graph(lambda x: x * x.sum().item(), torch.nn.Identity())  # waits for the device
for value in range(1, 7):
    assert turn(torch.full((2,), float(value), device="cuda")).tolist() == [2.0 * value**2] * 2
"""
    command = [sys.executable, "-c", code]  # of its own: a failed capture leaves traces
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("No CUDA graph") == 1


def test_pictures_come_from_host_memory_as_from_the_device() -> None:
    data = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8)
    device = torch.device("cuda")
    on_device = data.to(device)
    indices = torch.randperm(50).split(7)
    from_host = GAN.read_ahead(data, indices, device)
    from_device = GAN.read_ahead(on_device, [index.to(device) for index in indices], device)
    for one, other in zip(from_host, from_device, strict=True):
        assert one.is_cuda and torch.equal(one, other)


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16"])
def test_a_run_and_going_on(gan: Run, faces: Path, tmp_path: Path, precision: str) -> None:
    words = [f"--data_dir={faces}", "--device=cuda", f"--precision={precision}", "--flip"]
    gan(*words, "--n_epoch=2", "--g_every=2")
    said = gan(*words, "--n_epoch=4", "--g_every=2").stdout
    assert torch.cuda.get_device_name() in said and "No CUDA graph" not in said
    with open(tmp_path / "img" / "losses.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["images"] for row in rows] == ["40", "80", "120", "160"]
    assert all(0 < float(row["loss_d"]) < 10 for row in rows)
    said = gan(*words, "--n_epoch=5", "--device=cpu").stdout  # a checkpoint may change devices
    assert "another kind of device" in said
    said = gan(*words, "--n_epoch=10", "--g_every=2").stdout
    assert "another kind of device" in said and "No CUDA graph" not in said


def test_a_score_is_the_same_as_on_the_cpu(tmp_path: Path) -> None:
    import evaluate

    torch.manual_seed(0)
    rough = torch.rand(200, 3, 6, 6)
    smooth = torch.nn.functional.interpolate(rough, (64, 64), mode="bicubic").clamp(0, 1)
    data = (smooth * 255).byte().permute(0, 2, 3, 1).contiguous()
    gen = GAN.Generator(64, 20, 8)
    found = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        for place in (data, data.to(device)):
            machine = GAN.choose_machine(str(device), "fp32")
            scorer = evaluate.Scorer(
                place, 20, 64, "bce", machine, "lite0", "", [tmp_path / str(device)]
            )
            found.append(scorer.measure(gen.to(device)))
    for measured in found[1:]:
        assert measured == pytest.approx(found[0], rel=0.02)


def test_a_run_with_a_score(gan: Run, faces: Path, tmp_path: Path) -> None:
    words = [f"--data_dir={faces}", "--device=cuda", "--score_by=lite0", "--n_epoch=4"]
    said = gan(*words, "--save_every=2", "--g_every=1").stdout
    assert said.count("(floor ") == 3 and "No CUDA graph" not in said
    assert (tmp_path / "img" / "generator-best.pt").exists()


def state_of(out: Path) -> list[torch.Tensor]:
    parts = torch.load(out / "checkpoint.pt", weights_only=True)["parts"]
    return [*parts["gen"].values(), *parts["dis"].values(), *parts["average"].values()]


WAYS = [
    "--loss=wgan-gp --gp=10 --dis_dropout=0.3",
    "--loss=rpgan --r1=10 --r2=10 --gp_every=2 --gp_growth=4 --gp_aim=0.6 --beta1_d=0",
    "--loss=hinge --dis_norm=spectral --instance_noise=0.2 --super_res=1",
    "--modulate=0.25 --augment --bias=outer --dis_norm=batch --init=he --blocks=1 --full_fm=8",
    "--lr_decay=cosine --lr_by_fan_in --dis_norm=batch --weight_decay_d=0.01 --bias=False",
    "--optim_d=sgd --loss=bce-sum --lr_d=1e-3 --label_smoothing=0.1 --lr_decay=linear"
    " --kernel=5 --bias=outer",
]


GROWING = [
    "--grow=2 --loss=rpgan --r1=1 --gp_every=2 --full_fm=4 --palette=4",
    "--grow=2 --augment",  # steps of one kind: its graph is the only one of the pool
]


@pytest.mark.parametrize("way", [*WAYS, *GROWING])
def test_runs_with_graphs_and_without(gan: Run, faces: Path, tmp_path: Path, way: str) -> None:
    """Penalties' second gradients, torch's own random numbers, rates that change, in graphs."""
    words = [f"--data_dir={faces}", "--device=cuda", "--precision=fp32", "--deterministic"]
    words += ["--g_every=1", "--n_epoch=8", *way.split()]  # a graph is of the fourth step
    found = []
    for switch in ("True", "False"):
        out = tmp_path / switch
        assert "No CUDA graph" not in gan(*words, f"--compile={switch}", f"--img_dir={out}").stdout
        found.append(state_of(out))
    for graphed, plain in zip(*found, strict=True):  # a step of Adam is 2e-4
        torch.testing.assert_close(graphed, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_deterministic_runs(gan: Run, faces: Path, tmp_path: Path, way: str) -> None:
    """Twice the same, and the same once more when a run is cut in two."""
    words = [f"--data_dir={faces}", "--device=cuda", "--deterministic", "--g_every=1"]
    of_length = "--lr_decay", "--instance_noise", "--gp_growth"  # what goes by the length of a run
    words += [word for word in way.split() if not word.startswith(of_length)]
    for name, lengths in (("a", [4]), ("b", [4]), ("c", [2, 4])):
        for n_epoch in lengths:
            gan(*words, f"--n_epoch={n_epoch}", f"--img_dir={tmp_path / name}")
    a, b, c = (state_of(tmp_path / name) for name in "abc")
    for one, again, in_two in zip(a, b, c, strict=True):
        assert torch.equal(one, again) and torch.equal(one, in_two)


def test_the_batch_size_that_is_advised_fits(tmp_path: Path) -> None:
    """Where memory is short, also beside all pictures and with graphs, as training has them."""
    (tmp_path / "data").mkdir()
    torch.manual_seed(0)
    for i, picture in enumerate(torch.randint(0, 256, (2100, 8, 8, 3), dtype=torch.uint8).numpy()):
        Image.fromarray(picture).resize((96, 96)).save(tmp_path / "data" / f"{i}.jpg")
    code = """
import sys, torch
torch.cuda.set_per_process_memory_fraction(1e9 / torch.cuda.mem_get_info()[1])
import GAN
GAN.main()
"""
    command = [sys.executable, "-c", code, f"--data_dir={tmp_path / 'data'}", "--n_epoch=8"]
    command += [f"--img_dir={tmp_path / 'img'}", "--device=cuda", "--score_by=none"]
    words = [*command, "--batch_size=2048"]
    short = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    advice = re.search(r"GAN.py: out of memory. (--batch_size=[0-9]+) fits.", short.stderr)
    assert short.returncode == 1 and advice, short.stderr
    words = [*command, advice[1], "--fresh=True"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Finished 8 epochs" in done.stdout and "No CUDA graph" not in done.stdout
