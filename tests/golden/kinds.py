"""Which replay a golden file is for, by how its name begins or ends."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.golden import networks, patches, sampling, schedules, semantic, spatial, windows
from tests.golden.arrays import Golden
from tests.golden.digests import altered

# A replay takes a Golden and yields what each of its outputs compares to.
KINDS = {
    "unet_": networks.unet,
    "classifier_": networks.classifier,
    "schedules": schedules.replay,
    "ddnm_": sampling.woven,
    "ddnmplus_": sampling.woven,
    "msr_": sampling.woven,
    "hir_": sampling.woven,
    "repaint_": windows.repaint,
    "ddim_ddnm_": windows.implicit,
}
# Recordings of one network begin with a name for it.
OF_PATCHES = {
    "weights": patches.weights,
    "unet_collage": patches.forward,
    "unet_dropped_conditions": patches.without_conditions,
    "unet_window": patches.window,
    r"sample_dd[ip]m\d+(_cfg)?(_noclip)?": patches.sample,
    "training_loss": patches.training,
    "latent_mlp": patches.latent,
    "semantic_encoder": patches.image_encoder,
}
# So do those of networks that are told labels.
OF_LABELS = {
    r"weights_\d+": semantic.weights,
    "unet": semantic.forward,
    r"sample_dd[ip]m\d+_s[\d.]+?(_noclip)?": semantic.sample,
    "training_loss": semantic.training,
}
# Recordings of the spatial diffusion model, of which each has a part.
OF_SPREADING = {"nll": spatial.likelihood, "loop": spatial.loop, "stylegan_blocks": spatial.blocks}
# What of such files tells them from those of other networks that are named alike.
MARKS = {patches.training: "noise_padded", semantic.training: "vb"}
# What lies beside golden files and is none.
BESIDE = {"README.md"}


@dataclass(frozen=True)
class Verdict:
    """What the replay of a file came to: its worst comparison, and what is wrong, empty where nothing is."""

    name: str
    error: float
    tolerance: float
    problem: str = ""

    def __str__(self):
        end = f"not ok: {self.problem}" if self.problem else "ok"
        return f"{self.name}: error {self.error:.3g}, tolerance {self.tolerance:.3g}, {end}"


def kind_of(file):
    """The replay of a file, None for a kind that is not known."""
    if file.suffix != ".npz":
        return None
    begin = [replay for begins, replay in KINDS.items() if file.stem.startswith(begins)]
    endings = [*OF_PATCHES.items(), *OF_LABELS.items(), *OF_SPREADING.items()]
    ends = [replay for ending, replay in endings if re.fullmatch(f".+_{ending}", file.stem)]
    return next(iter(begin + [replay for replay in ends if _holds(file, MARKS.get(replay))]), None)


def _holds(file, name):
    """Whether a file lists an array, if it is a whole file at all."""
    if name is None or not zipfile.is_zipfile(file):
        return True
    with zipfile.ZipFile(file) as opened:
        return f"{name}.npy" in opened.namelist()


def verdict(file):
    """Replay a file; whatever goes wrong is its failure, not that of the files after it."""
    replay = kind_of(file)
    if replay is None:
        return Verdict(file.name, float("nan"), 0, "no replay knows this kind of file")
    try:
        golden = Golden(file)
        compared = sorted(replay(golden), key=lambda one: (one.share, one.tolerance))
    except Exception as error:
        return Verdict(file.stem, float("nan"), 0, " ".join(f"{type(error).__name__}: {error}".split()))
    if golden.unread:
        return Verdict(file.stem, float("nan"), 0, f"nothing was compared with {', '.join(sorted(golden.unread))}")
    if not compared:
        return Verdict(file.stem, float("nan"), 0, "it holds nothing to compare with")
    if all(one.ok for one in compared) and altered(golden):
        return Verdict(file.stem, float("nan"), 0, "what no output shows is not what was recorded")
    wrong = ", ".join(one.name for one in compared if not one.ok)
    return Verdict(file.stem, compared[-1].error, compared[-1].tolerance, wrong)


def files_in(folder):
    """The golden files of a folder, by name."""
    inside = sorted(file for file in Path(folder).iterdir() if file.is_file() and not file.name.startswith("."))
    return [file for file in inside if file.name not in BESIDE]
