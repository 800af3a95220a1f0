"""Settings: defaults, recipes, command line, and what is said when they are wrong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import GAN
import settings
from conftest import ROOT, Run, found

DEFAULTS = {
    "data_dir": "data", "image_size": 96, "flip": False, "noise_size": 100, "gen_fm": 32,
    "dis_fm": 32, "dis_norm": "none", "init": "torch", "batch_size": 256, "d_every": 1,
    "g_every": 5, "n_epoch": 200, "lr_g": 2e-4, "lr_d": 2e-4, "beta1_g": 0.5, "beta2_g": 0.999,
    "beta1_d": 0.5, "beta2_d": 0.999, "optim_g": "adam", "optim_d": "adam", "lr_decay": "none",
    "weight_decay_g": 0.0, "weight_decay_d": 0.0, "kernel": 4, "bias": True, "dis_dropout": 0.0,
    "deep_side": 4, "upsample": "transposed", "modulate": 0.0, "minutes": 0.0, "blocks": 0,
    "fm_factor": 2.0,
    "full_fm": 0, "palette": 0, "grow": 0, "super_res": 0, "lr_by_fan_in": False, "gp_growth": 1.0,
    "gp_aim": 0.0,
    "loss": "bce", "gp": 0.0, "r1": 0.0, "r2": 0.0, "gp_every": 1, "label_smoothing": 0.0,
    "augment": False, "instance_noise": 0.0, "deterministic": False,
    "img_dir": "img", "save_every": 10, "checkpoint_minutes": 10.0, "fresh": False,
    "dry_run": False, "device": "auto",
    "precision": "auto", "compile": True, "score_by": "lite0", "score_weights": "",
    "score_every": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def keep_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.RULES:
        monkeypatch.setattr(GAN, name, getattr(GAN, name))


def complaint(*words: str) -> str:
    before = GAN.settings_now()
    with pytest.raises(GAN.UserError) as error:
        GAN.read_settings(list(words))
    assert GAN.settings_now() == before
    return str(error.value)


def test_defaults_are_the_reports() -> None:
    assert {
        name: value for name, value in GAN.settings_now().items() if name in DEFAULTS
    } == DEFAULTS
    assert set(settings.RULES) == {*DEFAULTS, "ema", "seed"}


def test_every_setting_has_a_rule_and_a_comment() -> None:
    source = (ROOT / "GAN.py").read_text("utf-8")
    block = source.split("# ---- settings")[1].split("# ---- ")[0]
    lines = [line for line in block.split("\n")[1:] if line and not line.startswith("#")]
    names = [found(r"^([a-z]\w*) = .+  # .+", line)[0] for line in lines]
    assert sorted(names) == sorted(settings.RULES)


def test_help_lists_all_settings_with_default_and_comment(gan: Run) -> None:
    text = gan("--help").stdout
    for name, value in GAN.settings_now().items():
        default, comment = found(rf"^{name} = (\S+)  # (.+)", text, re.MULTILINE)
        assert ast.literal_eval(default) == value
        assert len(comment) > 10
    assert "recipes/best96.py" in text


def test_words_override_and_later_ones_win(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text('"""Mine."""\n\nn_epoch = 7\nlr_g = 1\nflip = True\ndis_norm = "batch"\n')
    GAN.read_settings(["--n_epoch=5", str(recipe), "--lr_g=3e-4", "--ema=1e4", "--dry_run"])
    expected = DEFAULTS | {"n_epoch": 7, "lr_g": 3e-4, "flip": True, "dis_norm": "batch"}
    expected |= {"ema": 10_000, "dry_run": True, "seed": 0}
    assert GAN.settings_now() == expected
    assert type(GAN.ema) is int
    GAN.read_settings([str(recipe), "--n_epoch=8", "--flip=false", "--seed=12"])
    assert (GAN.n_epoch, GAN.flip, GAN.lr_g, type(GAN.lr_g)) == (8, False, 1.0, float)


def test_paths_on_the_command_line_start_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.py"
    recipe.write_text('img_dir = "img/mine"\n')
    (tmp_path.parent / "pictures").mkdir(exist_ok=True)
    GAN.read_settings(["mine.py", "--data_dir=../pictures"])
    assert Path(GAN.data_dir) == tmp_path.parent / "pictures"
    assert ROOT / GAN.img_dir == ROOT / "img" / "mine"
    GAN.read_settings(["recipes/best96.py"])  # found beside GAN.py
    assert GAN.loss == "rpgan"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--n_epochs=3", "no setting is called n_epochs: is it n_epoch?"),
        ("--g-every=3", "no setting is called g-every: is it g_every?"),
        ("--zebra=3", "no setting is called zebra: python GAN.py --help lists them."),
        ("--bias=1", "bias must be True, outer or False, not 1"),
        ("--bias=inner", "bias must be True, outer or False, not 'inner'"),
        ("--g_every=0", "g_every must be a whole number from 1 up, not 0"),
        ("--palette=1", "palette must be 0 or a whole number from 2 up, not 1"),
        ("--batch_size=-4", "batch_size must be a whole number from 1 up, not -4"),
        ("--batch_size=2.5", "batch_size must be a whole number from 1 up, not 2.5"),
        ("--n_epoch=many", "n_epoch must be a whole number from 1 up, not 'many'"),
        ("--n_epoch=True", "n_epoch must be a whole number from 1 up, not True"),
        ("--n_epoch=", "n_epoch must be a whole number from 1 up, not ''"),
        ("--image_size=100", "image_size must be one of 32, 48, 64, 96, 128, 192, 256, not 100"),
        ("--beta1_g=1", "beta1_g must be a number from 0 to below 1, not 1.0"),
        ("--lr_d=0", "lr_d must be a number above 0, not 0.0"),
        ("--lr_d=1e999", "lr_d must be a number above 0, not inf"),
        ("--lr_d=nan", "lr_d must be a number above 0, not 'nan'"),
        ("--flip=maybe", "flip must be True or False, not 'maybe'"),
        ("--dis_norm=layer", "dis_norm must be one of none, batch, spectral, not 'layer'"),
        ("--data_dir=", "data_dir must be a name, not ''"),
        ("--n_epoch", "write --n_epoch=VALUE, with nothing around the ="),
        ("--n_epoch=1e999", "n_epoch must be a whole number from 1 up, not inf"),
        *(
            (word, f"{word} is neither --name=value nor a recipe (a .py file that is there)")
            for word in ("n_epoch=3", "no.py", "README.md")
        ),
        ("quick69", "quick69 is neither --name=value nor a recipe: is it recipes/quick96.py?"),
    ],
)
def test_what_is_said_of_a_wrong_word(word: str, said: str) -> None:
    assert complaint("--flip", word) == said


def test_the_program_says_it_in_one_line(gan: Run) -> None:
    done = gan("--image_sise=96", code=1)
    assert done.stdout == ""
    assert done.stderr == "GAN.py: no setting is called image_sise: is it image_size?\n"


@pytest.mark.parametrize(
    "text",
    [
        "n_epoch = 3\nimport os\n",
        "n_epoch = open('here', 'w')\n",
        "n_epoch: int = 3\n",
        "n_epoch = 2 * 3\n",
        "n_epoch = 3\n'late text'\n",
        "n_epoch = \n",
        "n_epoch = 3; print(3)\n",
    ],
)
def test_a_recipe_is_read_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(text)
    assert complaint("mine.py").startswith("mine.py is not a recipe: ")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mine.py"]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda p: p.stem)
def test_recipes_of_the_project(path: Path) -> None:
    GAN.read_settings([str(path)])
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert GAN.img_dir == f"img/{path.stem}"  # runs of different recipes don't meet


def test_packages_are_the_same_everywhere() -> None:
    text = (ROOT / "GAN.py").read_text("utf-8")
    (inline,) = found(r"# dependencies = (\[.*?\])\n", text, re.DOTALL)
    assert sorted(ast.literal_eval(inline.replace("#", ""))) == sorted(
        (ROOT / "requirements.txt").read_text().split()
    )


def test_importing_says_and_writes_nothing(tmp_path: Path) -> None:
    for name in sorted(path.stem for path in ROOT.glob("*.py")):
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {name}"
        command = [sys.executable, "-B", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == done.stderr == ""
        assert not any(tmp_path.iterdir())
