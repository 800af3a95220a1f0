"""What only a CUDA device can show."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import pytest
import torch

import GAN
from conftest import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_step_is_the_same_as_on_the_cpu() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    gen, dis = GAN.Generator(96, 100, 8), GAN.Discriminator(96, 8)
    real, noise = torch.rand(16, 3, 96, 96) * 2 - 1, torch.randn(16, 100, 1, 1)
    results = []
    for device in ("cpu", "cuda"):
        machine = GAN.choose_machine(device, "fp32")
        g = copy.deepcopy(gen).to(machine.device).to(memory_format=machine.layout)
        d = copy.deepcopy(dis).to(machine.device).to(memory_format=machine.layout)
        opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
        x, z = real.to(machine.device), noise.to(machine.device)
        result = GAN.d_step(g, d, opt_d, x, z, machine)
        loss_g = GAN.g_step(g, d, opt_g, z, machine)
        results.append([result, loss_g, *d.parameters(), *g.parameters()])
    for on_cpu, on_cuda in zip(*results, strict=True):
        torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-3, atol=1e-4)


def test_nothing_in_a_step_waits_for_the_device() -> None:
    machine = GAN.choose_machine("cuda", "auto")
    gen, dis = GAN.Generator(96, 100, 8).cuda(), GAN.Discriminator(96, 8).cuda()
    average = copy.deepcopy(gen).requires_grad_(False)
    opt_g, opt_d = (torch.optim.Adam(n.parameters(), 2e-4, fused=True) for n in (gen, dis))
    rng = torch.Generator("cuda").manual_seed(0)
    data = torch.zeros(64, 96, 96, 3, dtype=torch.uint8, device="cuda")
    sums = torch.zeros(4, device="cuda")
    for turn in range(2):  # the first finds algorithms and may wait
        torch.cuda.set_sync_debug_mode("error" if turn else "default")
        try:
            index = torch.randperm(64, generator=rng, device="cuda")[:16]
            noise = torch.randn(16, 100, 1, 1, generator=rng, device="cuda")
            real = GAN.to_batch(data, index, True, rng, machine)
            sums[:3] += GAN.d_step(gen, dis, opt_d, real, noise, machine)
            sums[3] += GAN.g_step(gen, dis, opt_g, noise, machine)
            GAN.update_ema(average, gen, 0.9)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sums.isfinite().all()


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_run_and_going_on(gan: Run, faces: Path, tmp_path: Path, precision: str) -> None:
    words = [f"--data_dir={faces}", "--device=cuda", f"--precision={precision}", "--flip"]
    gan(*words, "--n_epoch=2", "--g_every=2")
    said = gan(*words, "--n_epoch=4", "--g_every=2").stdout
    assert torch.cuda.get_device_name() in said
    with open(tmp_path / "img" / "losses.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["images"] for row in rows] == ["40", "80", "120", "160"]
    assert all(0 < float(row["loss_d"]) < 10 for row in rows)
    said = gan(*words, "--n_epoch=5", "--device=cpu").stdout  # a checkpoint may change devices
    assert "another kind of device" in said
