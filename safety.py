"""Keeps a run, whatever happens: kills, signals, full disks, damaged files, a second run beside it.

RunFolder is what GAN.py uses where this file is there; without it, GAN.py writes and reads plainly.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import re
import shlex
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import GAN
from forking import STOPS
from GAN import UserError, say, show

Writes = dict[Path, Callable[[Path], object]]  # files, and what writes them
RUN_FILES = "real.png epoch-*.png losses.csv settings.json skipped.txt *.pt"
RUN_FILES += " real-and-drawn.png timelapse.gif generator*-scores.json generator*-nearest.png"
WAYS_OUT = "choose another --img_dir, or begin anew with --fresh=True (the old run moves aside)"
SHAPES = ["image_size", "noise_size", "gen_fm", "dis_fm", "dis_norm", *GAN.Layers._fields]
SHAPES += ["optim_g", "optim_d", "lr_by_fan_in"]


def reason(error: BaseException) -> str:
    """An error in short: torch's go on with advice on its options, Python's own say only where."""
    if isinstance(error, (LookupError, TypeError, AttributeError, EOFError)):
        return f"it has not what is to be in it: {error!r}"
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__


def checked(file: Path | io.BytesIO) -> io.BytesIO:
    """A copy of a file that torch.save() has written, of nothing but what its checksums confirm,
    which torch.load() overlooks; an error, of many kinds, if something is damaged.
    """
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(memory := io.BytesIO(), "w") as copy:
        for part in archive.infolist():
            copy.writestr(part.filename, archive.read(part))
    memory.seek(0)
    return memory


def read_saved(path: Path) -> dict[str, Any]:
    """What torch.save() has written, as data: no code in it is run. Errors of many kinds."""
    return torch.load(checked(path), map_location="cpu", weights_only=True)


def read_ours(path: Path) -> dict[str, Any]:
    """The same, of a file of this version of GAN.py."""
    saved = read_saved(path)
    if saved["format"] != GAN.FORMAT:
        raise ValueError(f"it is of another version, {saved['format']}")
    return saved


def check_progress(saved: dict[str, Any]) -> None:
    """An error, of many kinds, if a checkpoint does not say how far a run of GAN.py is."""
    p, noise_size = GAN.Progress(**saved["progress"]), saved["settings"]["noise_size"]
    numbers = p.epoch, p.batch, p.step, p.images, p.sample
    json.dumps([{**saved["settings"]}, *p.history])  # plain values
    if not (
        vars(p).keys() - saved["progress"].keys() <= {"sample", "gp_weight"}  # older ones lack them
        and p.fixed_noise.shape == (64, noise_size, 1, 1)
        and p.sums.shape == (4,)
        and p.gp_weight.shape == ()
        and 0 < p.gp_weight < math.inf
        and torch.equal(p.order.sort()[0], torch.arange(len(p.order)))
        and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        and math.isfinite(p.seconds)
        and type(p.history) is list
        and all(math.isfinite(row[k]) for row in p.history for k in ("epoch", "images", "seconds"))
    ):
        raise ValueError("its progress makes no sense")


def load_checkpoint(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The last good checkpoint in out, None without any; UserError where settings don't fit it."""
    saved, said = None, ""
    for path in (out / "checkpoint.pt", out / "checkpoint-before.pt"):
        if saved or not os.path.lexists(path):
            continue
        try:
            saved = read_ours(path)
            check_progress(saved)
        except (PermissionError, FileNotFoundError) as error:  # a link to what is not there
            why = error.strerror
            raise UserError(f"{show(path)} can't be read ({why}): see to that.") from None
        except Exception as error:  # there are many kinds
            saved, said = None, said or f"{show(path)} can't be read ({reason(error)})"
    if not saved:
        if said:
            raise UserError(f"{said}: {WAYS_OUT}.")
        return None
    if said:
        say(f"{said}: going on from the one before it.")
    compare(out, saved["settings"], settings)
    return saved


def compare(out: Path, old: dict[str, Any], settings: dict[str, Any]) -> None:
    """Say what has changed since a checkpoint; UserError where it can't be gone on from."""
    fixed = {"optim_g": "adam", "optim_d": "adam", "augment": False}  # before they were settings
    fixed |= {"lr_by_fan_in": False, "gp_growth": 1.0, "gp_aim": 0.0, "dis_dropout": 0.0}
    old = GAN.DCGAN._asdict() | fixed | old
    changed = {k: f"{k} {old[k]!r} -> {v!r}" for k, v in settings.items() if old.get(k, v) != v}
    # Dropout of 0 is no layer, so those behind it have other numbers.
    layers = SHAPES + ["dis_dropout"] * (0 in (old["dis_dropout"], settings["dis_dropout"]))
    if other := ", ".join(changed[name] for name in layers if name in changed):
        raise UserError(
            f"{show(out)} holds a run of other networks or optimisers ({other}): {WAYS_OUT}."
        )
    for name in sorted(changed.keys() - {"img_dir", "n_epoch", "minutes", "fresh", "dry_run"}):
        too_late = ", too late to have an effect" if name in ("init", "seed") else ""
        say(f"changed since the checkpoint: {changed[name]}{too_late}")
    if (objectives := GAN.sibling("objectives")) and objectives.changing(settings):
        for name in changed.keys() & {"n_epoch", "minutes"}:
            say(f"{changed[name]}: rates, noise, penalties and growth are now of a run so long")


class RunFolder(GAN.RunFolder):
    """The folder of one run at a time: a thread writes it while training goes on.

    What can't be written (no room, no permission) costs a warning, and is tried again with the next
    save. Beside each checkpoint stays the one before it.
    """

    begun = False  # training: until then, nothing in the folder has changed

    def __init__(self, path: Path) -> None:
        """Lock the folder, as a dead process no longer does, and catch signals; UserError if
        another process has it.
        """
        super().__init__(path)
        self.lock = FileLock(path / ".lock", thread_local=False)
        self.held = 0  # that file's number on the disk
        self.hold()
        for left in path.glob(".*.*.tmp"):  # by a process that was killed: it is nobody else's
            if re.fullmatch(r"\..+\.\d+\.tmp", left.name):
                with suppress(OSError):
                    left.unlink()
        self.waiting: Writes = {}
        self.said = ""
        self.scorer: Any = None
        self.told: tuple[float, int] | None = None
        # Else drawing curves, in the thread, holds training up for 5 ms a time.
        sys.setswitchinterval(1e-4)
        self.threads = ThreadPoolExecutor(2)  # one writes, one imports; neither computes
        self.working = self.threads.submit(bool)
        self.catch_signals()

    def hold(self) -> None:
        """Lock the folder, also when it has been removed and made anew; UserError if another
        process has it, or another run is in it by now.
        """
        lock, process = self.path / ".lock", self.path / ".process"
        there = 0
        with suppress(OSError):  # it is gone
            there = lock.stat().st_ino
        if self.lock.is_locked and there == self.held:
            return
        self.lock.release(force=True)
        self.path.mkdir(parents=True, exist_ok=True)
        # Our run went with the folder that our lock lies in; whoever made this one may be done.
        other = self.held and there not in (0, self.held)
        if other and any(self.path.glob("checkpoint*.pt")):
            raise UserError(f"another run is in {show(self.path)} by now: move it aside")
        try:
            self.lock.acquire(timeout=0)
            self.held = lock.stat().st_ino
        except Timeout:
            who = "another process"
            with suppress(OSError):
                who = f"process {process.read_text('utf-8')}"
            what = f"{who} trains into {show(self.path)}"
            raise UserError(f"{what}: choose another --img_dir.") from None
        except NotImplementedError:  # a file system without locks
            pass
        about = f"{os.getpid()} on {platform.node()}".encode()
        with suppress(OSError):  # a full disk
            GAN.write_file(process, lambda file: file.write(about))

    def catch_signals(self) -> None:
        """Let Ctrl-C and the like ask training to stop, or end all that comes before it; a second
        Ctrl-C ends training at once.
        """

        def catch(number: int, frame: object) -> None:
            if not self.begun:
                raise KeyboardInterrupt(number)
            if self.caught and number == signal.SIGINT:
                say(f"\nStopped at once. To go on from the last save: {again()}")
                os._exit(128 + number)
            self.caught.append(number)

        for number in STOPS:
            if number in STOPS[:2] or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, catch)  # but nohup ignores SIGHUP

    def begin(self, fresh: bool, skipped: list[str]) -> None:
        """Before training: move the files of an earlier run that has learnt something, unless it
        goes on, into run-1, run-2, ...; say what is wrong with skipped pictures.
        """
        aside = self.path / ".aside"  # there already if a process was killed in the middle of this
        if fresh or aside.exists() or not any(self.path.glob("checkpoint*.pt")):
            files = sorted({p for pattern in RUN_FILES.split() for p in self.path.glob(pattern)})
            learnt = any(path.suffix == ".pt" or path.name.startswith("epoch-") for path in files)
            if learnt or aside.exists():
                aside.mkdir(exist_ok=True)
                for path in files:
                    path.rename(aside / path.name)
                place = next(p for n in count(1) if not (p := self.path / f"run-{n}").exists())
                aside.rename(place)
                say(f"The earlier run is now in {show(place)}.")
        RunFolder.begun = True
        if skipped:
            self.write({self.path / "skipped.txt": partial(save_skipped, skipped=skipped)})
            some = "".join(f"\n  {line}" for line in skipped[:10])
            file = show(self.path / "skipped.txt")
            say(f"{len(skipped)} pictures can't be read; {file} names them all:{some}")
        else:
            with suppress(OSError):
                (self.path / "skipped.txt").unlink()
        if GAN.score_by != "none":
            self.threads.submit(GAN.sibling, "evaluate")  # importing it takes seconds

    def load(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The checkpoint to go on from, if any; ends the program if nothing is left to do."""
        if saved := load_checkpoint(self.path, settings):
            epochs, seconds = saved["progress"]["epoch"] - 1, saved["progress"]["seconds"]
            if epochs >= settings["n_epoch"] or seconds >= 60 * settings["minutes"] > 0:
                say(f"{show(self.path)} holds a finished run: {epochs} epochs are done.")
                say("A larger --n_epoch (or --minutes) extends it, --fresh=True begins anew.")
                sys.exit()
        return saved

    def recognise(self, progress: GAN.Progress, some: torch.Tensor) -> None:
        """Say so if a run goes on with other pictures than before, of which `some` are a sample."""
        before, progress.sample = progress.sample, int(some.sum())
        if before not in (0, progress.sample):
            say("These are other pictures than before; --fresh=True would begin anew with them.")

    def tell(self, seconds: float, images: int, left: int, machine: GAN.Machine) -> None:
        """Ten seconds after training has begun, say how long `left` more pictures take, if any."""
        if self.told is None:
            self.told = seconds, images
        elif seconds > self.told[0] + 10:
            rate = (images - self.told[1]) / (seconds - self.told[0])
            self.told = math.inf, 0
            if rehearsal := GAN.sibling("rehearse"):
                rehearsal.say_if_long(rate, left, machine)

    def judge(
        self,
        average: torch.nn.Module,
        history: list[dict[str, Any]],
        data: torch.Tensor,
        settings: dict[str, Any],
        machine: GAN.Machine,
    ) -> tuple[bool, list[str]]:
        """Score a generator with evaluate.py: whether it is the best so far, and what is wrong with
        the run. Whatever fails in it, training goes on.
        """
        try:
            if self.scorer is None:
                from evaluate import scorer_of_run

                self.scorer = scorer_of_run(data, settings, machine, self.path, history)
            return self.scorer(average, history) if self.scorer else (False, [])
        except Exception as error:  # there are many kinds
            if self.scorer:
                return False, [f"There is no score this time: {error!r}"]
            self.scorer = False
            say(f"Training goes on without scores and warnings: {error}.")
            if isinstance(error, ImportError):
                say("They need evaluate.py beside GAN.py, and: pip install -r requirements.txt")
            return False, []

    def write(self, files: Writes) -> None:
        """Write these, in their order, after those before them; a later one of a name wins."""
        self.working.result()
        self.busy = True
        for path in files:
            self.waiting.pop(path, None)
        self.waiting |= files
        self.working = self.threads.submit(self.write_waiting)

    def write_waiting(self) -> bool:
        """Write what waits; whether that succeeded."""
        wrong = ""
        for path, write in list(self.waiting.items()):
            try:
                if path.name == "checkpoint.pt":
                    self.keep_before(path)
                self.put(path, write)
                del self.waiting[path]
            except Exception as error:  # whatever it is, it must not cost what is learnt
                why = getattr(error, "strerror", None) or reason(error)
                if path.suffix == ".png" and not isinstance(error, OSError | UserError):
                    del self.waiting[path]  # one that can't be drawn
                    say(f"{show(path)} is left out: {error!r}")
                else:
                    wrong = wrong or f"{show(path)} can't be written ({why})"
        if wrong and wrong != self.said:
            say(f"{wrong}. It is tried again with the next save.")
        self.said, self.busy = wrong, False
        return not wrong

    def put(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write a file under another name, and give it its own if the folder is still ours: while
        this process was stopped (SIGSTOP, a laptop asleep), another run may have taken it.
        """
        self.hold()
        new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write(new)
            self.hold()
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)

    def keep_before(self, path: Path) -> None:
        """Copy a checkpoint that is to be replaced, if undamaged, to checkpoint-before.pt."""
        with suppress(Exception):  # there is none, or a damaged one
            checked(io.BytesIO(whole := path.read_bytes()))
            write = partial(GAN.write_file, write=lambda file: file.write(whole))
            self.put(path.with_stem("checkpoint-before"), write)

    def finish(self, epoch: int) -> None:
        """Wait until all is written; after a signal in the middle of a run, which is in that epoch
        then (0: it is done), end the program with the conventional status.
        """
        for tries in count():
            if self.working.result() or self.caught:
                break
            if tries == 0:
                say("Make room or a way for it, or give it up with Ctrl-C.")
            time.sleep(5)
            self.write({})
        if self.said:  # the last thing tried has failed
            say(f"Stopped, but {self.said}. To go on from the save before: {again()}")
        elif self.caught and epoch:
            say(f"Stopped in epoch {epoch} with everything saved. To go on: {again()}")
        else:
            return
        sys.exit(128 + self.caught[0])

    def close(self) -> None:
        """Write what is on its way, and give the folder free."""
        self.threads.shutdown()
        with suppress(OSError):
            (self.path / ".process").unlink()
        self.lock.release()


def save_skipped(path: Path, skipped: list[str]) -> None:
    """Write what is wrong with each picture that can't be read."""
    text = "".join(f"{line}\n" for line in skipped)
    GAN.write_file(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def again() -> str:
    """The command that goes on where this run has stopped."""
    words = [word for word in sys.argv if not word.startswith("--fresh")]
    if GAN.fresh and words == sys.argv:  # it stands in GAN.py or in a recipe
        words.append("--fresh=False")
    return f"python {shlex.join(words)}"


def exit_with(error: BaseException) -> None:
    """End a run of GAN.py that an error has stopped, in a sentence for its user; nothing happens
    if it is an error of the program, which should show its traceback.
    """
    if isinstance(error, KeyboardInterrupt):  # before training
        print("\nGAN.py: stopped before training began; start it again as it was.", file=sys.stderr)
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))
    if text := explain(error):
        sys.exit(f"GAN.py: {text}")


def explain(error: BaseException) -> str:
    """What a user is to know and to do when a run of GAN.py has ended with an error;
    "" for an error of the program, which should show its traceback.
    """
    if isinstance(error, ImportError):
        return str(error)
    if isinstance(error, OSError):
        what = str(error).strip().split("\n")[-1]  # a worker's comes with its traceback
        if RunFolder.begun:
            return f"{what}. See to that. To go on from the last save: {again()}"
        return f"{what}. See to that, and start again."
    if GAN.deterministic and "deterministic" in str(error):
        return f"deterministic=True is not possible here: {reason(error)}"
    short = re.search("out of memory|(allocate|enough) memory|calculation overflowed", str(error))
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and short):
        if isinstance(error, torch.OutOfMemoryError) and GAN.sibling("rehearse"):
            traceback.clear_frames(error.__traceback__)  # and what they hold of the GPU's memory
            return f"out of memory. {GAN.sibling('rehearse').advice_on_memory()}"
        return "out of memory. Use a smaller --batch_size, or --gen_fm and --dis_fm."
    if "restore" in {call.name for call in traceback.extract_tb(error.__traceback__)}:
        out = show(GAN.full_path(GAN.img_dir))  # there are many kinds of errors in what is not ours
        return f"{out} holds no run of GAN.py ({reason(error)})"
    return ""
