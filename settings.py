"""Reads settings from recipes and --name=value words, and says all that is wrong with them.

Without this file, GAN.py takes its settings from its top, as they are.
"""

from __future__ import annotations

import ast
import difflib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import GAN
from GAN import HERE, Dict, UserError, full_path, say, settings_now, show

Rule = tuple[type, Callable[[Any], Any], str]  # type (object: several), test, and both in words


def from_up(least: int, most: int = 2**63 - 1) -> Rule:
    limit = "up" if most > 2**32 else f"to {most:,}"
    return int, lambda v: least <= v <= most, f"a whole number from {least} {limit}"


def one_of(*choices: Any) -> Rule:
    return type(choices[0]), lambda v: v in choices, "one of " + ", ".join(map(str, choices))


LARGE = 3e38  # float32 ends there
NOT_NEGATIVE: Rule = float, lambda v: 0 <= v < LARGE, "a number from 0 up"
BELOW_ONE: Rule = float, lambda v: 0 <= v < 1, "a number from 0 to below 1"
SCORES = ["none", "lite0", "inception-v3-compat", "clip-vit-b-32", "clip-vit-l-14"]
SCORES += [f"dinov2-vit-{size}-14" for size in "sbl"]
BIAS: Rule = object, lambda v: v is True or v is False or v == "outer", "True, outer or False"
ABOVE_ZERO: Rule = float, lambda v: 0 < v < LARGE, "a number above 0"
YES_OR_NO: Rule = bool, lambda v: True, "True or False"
RULES: dict[str, Rule] = {
    name: rule
    for names, rule in (
        ("data_dir img_dir device", (str, lambda v: v.strip() and "\0" not in v, "a name")),
        ("noise_size gen_fm dis_fm", from_up(1, 2**20)),
        ("batch_size d_every g_every n_epoch save_every gp_every", from_up(1)),
        ("ema seed score_every", from_up(0)),
        ("full_fm", from_up(0, 2**20)),
        ("palette", (int, lambda v: v == 0 or 2 <= v <= 2**20, "0 or a whole number from 2 up")),
        ("fm_factor", (float, lambda v: 1 <= v <= 4, "a number from 1 to 4")),
        ("blocks grow", from_up(0, 16)),
        ("super_res", from_up(0, 3)),
        ("flip fresh dry_run compile augment deterministic lr_by_fan_in", YES_OR_NO),
        ("lr_g lr_d gp_growth checkpoint_minutes", ABOVE_ZERO),
        ("minutes modulate gp r1 r2 weight_decay_g weight_decay_d instance_noise", NOT_NEGATIVE),
        ("gp_aim", NOT_NEGATIVE),
        ("beta1_g beta1_d beta2_g beta2_d dis_dropout label_smoothing", BELOW_ONE),
        ("image_size", one_of(32, 48, 64, 96, 128, 192, 256)),
        ("bias", BIAS),
        ("kernel", one_of(4, 5)),
        ("deep_side", one_of(4, 6)),
        ("upsample", one_of("transposed", "nearest", "bilinear")),
        ("dis_norm", one_of("none", "batch", "spectral")),
        ("loss", one_of("bce", "bce-sum", "hinge", "wgan-gp", "rpgan")),
        ("optim_g optim_d", one_of("adam", "sgd")),
        ("lr_decay", one_of("none", "linear", "cosine")),
        ("init", one_of("torch", "dcgan", "he")),
        ("precision", one_of("auto", "fp32", "bf16", "fp16")),
        ("score_by", one_of(*SCORES)),
        ("score_weights", (str, lambda v: "\0" not in v, "the name of a file")),
    )
    for name in names.split()
}


def check_places(s: Dict) -> None:
    """UserError if data_dir is not there, or img_dir can't be a folder of its own."""
    root, out = full_path(s["data_dir"]), full_path(s["img_dir"])
    wrong = []
    if not os.path.lexists(root) and root != HERE / "data":  # there, avatars are drawn
        wrong.append(f"data_dir: there is no {show(root)}")
    # Not by Path's methods, to which names that are too long are errors of their own.
    place = next((place for place in (out, *out.parents) if os.path.exists(place)), out)
    if not os.path.isdir(place):
        wrong.append(f"img_dir: {show(place)} is a file, and no folder")
    if os.path.realpath(out) == os.path.realpath(root):
        wrong.append("img_dir must not be data_dir: a run would learn from its own pictures")
    if wrong:
        raise UserError("\n  ".join(wrong))


def check_weights(s: Dict) -> None:
    """UserError if score_weights is not there, or not for the network that judges."""
    weights, by = s["score_weights"], s["score_by"]
    if weights and by in ("none", "lite0"):
        raise UserError(f"score_weights is for other networks: score_by is {by}")
    if weights and not full_path(weights).is_file():
        raise UserError(f"score_weights: there is no file {weights}")


def check_stages(s: Dict) -> None:
    """UserError if no networks can be built that way."""
    side, like = s["image_size"], GAN.Layers(deep_side=s["deep_side"])
    stages = GAN.convolutions(side, 1, 1, like)
    if s["super_res"]:
        small = side >> s["super_res"]
        try:
            stages = GAN.convolutions(small, 1, 1, like)
        except UserError:
            few = f"super_res={s['super_res']} leaves {small}x{small}: too few, take a smaller one"
            raise UserError(few) from None
    if s["grow"] > (most := len(stages) - 2):  # the deepest two are there from the start
        raise UserError(f"grow must be {most} at most for this image_size and deep_side")
    if s["grow"] and s["dis_norm"] == "spectral":
        raise UserError("grow begins with weights of 0, which dis_norm=spectral can't divide")
    if s["upsample"] != "transposed" and s["kernel"] != 4:
        raise UserError(f"upsample={s['upsample']} has a kernel of its own: kernel must be 4")


# What must fit each other, and what sees to it.
FIT: dict[str, Callable[[Dict], object]] = {
    "loss gp r1 r2 gp_every gp_growth gp_aim label_smoothing image_size super_res": (
        lambda s: GAN.choose_objective(s, 1)
    ),
    "device precision": lambda s: GAN.choose_machine(s["device"], s["precision"]),
    "image_size kernel deep_side upsample grow super_res dis_norm": check_stages,
    "data_dir img_dir": check_places,
    "score_by score_weights": check_weights,
}


@contextmanager
def gathered(wrong: list[str]) -> Iterator[None]:
    """Puts a UserError's text on a list, so that a user hears of all that is wrong at once."""
    try:
        yield
    except UserError as error:
        wrong.append(str(error))


def check(name: str, value: Any) -> Any:
    """The value of a setting in its right type; UserError says what it must be instead."""
    if name not in RULES:
        near = difflib.get_close_matches(name.replace("-", "_"), RULES, n=1)
        hint = f"is it {near[0]}?" if near else "python GAN.py --help lists them."
        raise UserError(f"no setting is called {name}: {hint}")
    kind, test, words = RULES[name]
    whole = type(value) is float and value.is_integer()
    if (kind is int and whole) or (kind is float and type(value) is int):
        value = kind(value)  # 5e4 for a number of pictures, 1 for 1.0
    if kind not in (type(value), object) or not test(value):
        raise UserError(f"{name} must be {words}, not {value!r}")
    return value


def read_word(word: str) -> dict[str, Any]:
    """The setting in `--name=value`; a switch needs no `=True`, a text no quotes."""
    name, equals, text = word.removeprefix("--").partition("=")
    kind = RULES[name][0] if name in RULES else str
    if not equals and name in RULES and kind is not bool:
        raise UserError(f"write --{name}=VALUE, with nothing around the =")
    if name in ("data_dir", "img_dir", "score_weights") and text.strip() and "\0" not in text:
        return {name: os.path.realpath(os.path.expanduser(text))}  # from where the user is
    if kind is not str:
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return {name: ast.literal_eval(text.capitalize() if equals else "True")}
    return {name: text}


def read_recipe(word: str) -> dict[str, Any]:
    """The `name = value` lines of a recipe, which is read, never run: values are plain."""
    path = None
    with suppress(OSError, ValueError):  # a name that is too long
        path = next((path for path in (Path(word), HERE / word) if path.is_file()), None)
    if path is None or not word.endswith(".py"):
        there = [file.stem for file in (HERE / "recipes").glob("*.py")]
        near = difflib.get_close_matches(Path(word).stem, there, n=1)
        hint = f": is it recipes/{near[0]}.py?" if near else " (a .py file that is there)"
        raise UserError(f"{word} is neither --name=value nor a recipe{hint}")
    values = {}
    try:
        for number, node in enumerate(ast.parse(path.read_text("utf-8-sig"), word).body):
            match node:
                case ast.Assign([ast.Name(name)], ast.Constant(value)):
                    values[name] = value
                case ast.Expr(ast.Constant(str())) if number == 0:
                    pass  # the docstring
                case _:
                    what = "is not of the form name = value, with text in quotes"
                    raise ValueError(f"line {node.lineno} {what}")
    except (ValueError, SyntaxError, OSError, MemoryError, RecursionError) as error:
        raise UserError(f"{word} is not a recipe: {error}") from None
    return values


def read(words: list[str]) -> dict[str, Any]:
    """All settings, with recipes and --name=value words over those of GAN.py; later words win.

    UserError tells all that is wrong with them; --help prints them, and ends the program.
    """
    if {"-h", "--help"} & set(words):
        block = Path(GAN.__file__).read_text("utf-8").split("# ---- settings")[1].split("# ---- ")
        print(f"{GAN.__doc__}\nSettings, as --name=value:\n{block[0].strip(' -')}")
        sys.exit()
    given: dict[str, Any] = {}
    wrong: list[str] = []
    for word in words:
        with gathered(wrong):
            given |= read_word(word) if word.startswith("--") else read_recipe(word)
    values, possible = settings_now() | given, set()
    for name, value in values.items():
        with gathered(wrong):
            values[name] = check(name, value)
            possible.add(name)
    for names, test in FIT.items():
        if possible.issuperset(names.split()):
            with gathered(wrong):
                test(values)
    if wrong:
        raise UserError("\n  ".join(wrong))
    for name in given.keys() & {"beta1_g", "beta2_g", "beta1_d", "beta2_d"}:
        if values[f"optim_{name[-1]}"] == "sgd":
            say(f"{name} is Adam's: it has no effect with optim_{name[-1]}=sgd")
    return values
