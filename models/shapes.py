"""What the names and shapes of a set of tensors tell of the network they belong to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ..tiling.errors import InputError
from .adm_config import AdmConfig, ClassifierConfig, image_size_of

Shapes = Mapping[str, tuple[int, ...]]

ADM, CLASSIFIER, PATCHES = "an ADM U-Net", "an ADM classifier", "a Patch-DM network"
SEMANTIC, SEMANTIC_MARK = "a semantic diffusion U-Net (SPADE)", ".mlp_shared."
UNKNOWN = "no network that is known here"
HEAD_CHANNELS, HEADS = 64, 4
_FEW = 3

# What no other kind of network has in its names, the most telling first.
_MARKS = {
    SEMANTIC_MARK: SEMANTIC,
    "time_embed.pos_embed.": PATCHES,
    "model.diffusion_model.": "a latent diffusion model",
    "time_embedding.linear_1.": "a diffusers U-Net (UNet2DModel or alike)",
    "temb.dense.": "a pixel DDPM U-Net (of the SDEdit kind)",
    "output_blocks.": ADM,
    "input_blocks.": CLASSIFIER,
}
_WRAPPERS = ("module.", "model.", "ema_model.", "ema.", "net.", "unet.")
_LAYER = r"(in_layers\.[02]|emb_layers\.1|out_layers\.[03]|skip_connection|norm|qkv|proj_out|op|conv)"
_NAMES = re.compile(
    r"(time_embed\.[02]|input_blocks\.0\.0|out\.[023]|out\.2\.(qkv_proj|c_proj)"
    rf"|((in|out)put_blocks\.\d+|middle_block)\.\d+\.{_LAYER})\.(weight|bias)"
    r"|label_emb\.weight|out\.2\.positional_embedding"
)
_ROOTS = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.1.qkv.weight", "out.0.weight")


def looks_like(shapes: Shapes) -> str:
    """The kind of network, in words."""
    kind = next((words for mark, words in _MARKS.items() if any(mark in name for name in shapes)), UNKNOWN)
    wrappers = [prefix for prefix in _WRAPPERS if any(name.startswith(prefix) for name in shapes)]
    return f"{kind} whose names begin with {' and '.join(wrappers)}" if wrappers and kind != UNKNOWN else kind


def difference(expected: Collection[str], found: Collection[str], *, reshaped: Collection[str] = ()) -> str:
    """How many keys are missing, unexpected or of another shape, and the first few; empty where none is."""
    parts = {
        "missing": sorted(set(expected).difference(found)),
        "unexpected": sorted(set(found).difference(expected)),
        "of another shape": sorted(reshaped),
    }
    return ", ".join(
        f"{len(keys)} {'key is' if len(keys) == 1 else 'keys are'} {what} ({', '.join(keys[:_FEW])}"
        f"{', ...' if len(keys) > _FEW else ''})"
        for what, keys in parts.items()
        if keys
    )


def mismatch(expected: Shapes, found: Shapes) -> str:
    """:func:`difference` of tensors by their names and shapes."""
    reshaped = [name for name in expected if name in found and found[name] != expected[name]]
    return difference(expected, found, reshaped=reshaped)


def refuse_foreign(
    shapes: Shapes,
    *,
    names: re.Pattern[str] = _NAMES,
    roots: Collection[str] = _ROOTS,
    like: str = "an ADM network",
) -> None:
    """Refuse tensors whose names are not all those of a kind of network."""
    fitting = {name for name in shapes if names.fullmatch(name)}
    wrong = difference(fitting.union(roots), shapes)
    if wrong:
        kind = looks_like(shapes)
        instead = "" if kind == UNKNOWN else f", not like {like}'s bare state dict"
        raise InputError(f"looks like {kind}{instead}: {wrong}")


def layout(shapes: Shapes) -> AdmConfig | ClassifierConfig:
    """The network as far as shapes tell it; heads are as most networks have them, attention is in legacy order."""
    refuse_foreign(shapes)
    width = size_of(shapes, "time_embed.0.weight", 1)
    down = way_down(shapes, width)
    levels, first = len(down["channel_mult"]), int(down["channel_mult"][0] * width)
    common = {
        **down,
        **usual_heads(down),
        "use_scale_shift_norm": size_of(shapes, "input_blocks.1.0.emb_layers.1.weight", 0) == 2 * first,
        "resblock_updown": not any(re.search(r"_blocks\.\d+\.\d+\.(op|conv)\.", name) for name in shapes),
    }
    return _unet(shapes, common) if _is_unet(shapes) else _classifier(shapes, common, levels)


def way_down(shapes: Shapes, width: int) -> dict[str, Any]:
    """What shapes tell of a way down, in units of ``width`` channels, as a config has it."""
    levels, blocks = _depth(shapes)
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    return {
        "model_channels": width,
        "channel_mult": tuple(_wide(shapes, first) / width for first in firsts),
        "num_res_blocks": blocks,
        "attention_resolutions": tuple(
            2**level for level, first in enumerate(firsts) if f"input_blocks.{first}.1.qkv.weight" in shapes
        ),
        "in_channels": size_of(shapes, "input_blocks.0.0.weight", 1),
    }


def usual_heads(down: Mapping[str, Any]) -> dict[str, Any]:
    """The heads that most networks with such a way down have, which no shape tells."""
    widths = [int(mult * down["model_channels"]) for mult in down["channel_mult"]]
    attended = down["attention_resolutions"]
    seats = [wide for level, wide in enumerate(widths) if 2**level in attended or level + 1 == len(widths)]
    each = -1 if any(wide % HEAD_CHANNELS for wide in seats) else HEAD_CHANNELS
    return {"num_head_channels": each, "num_heads": HEADS}


def _unet(shapes: Shapes, common: Mapping[str, object]) -> AdmConfig:
    labels = "label_emb.weight"
    return AdmConfig(
        **common,  # type: ignore[arg-type]  # made above, each value by its own name
        out_channels=size_of(shapes, "out.2.weight", 0),
        num_classes=size_of(shapes, labels, 0) if labels in shapes else None,
    )


def _classifier(shapes: Shapes, common: Mapping[str, object], levels: int) -> ClassifierConfig:
    positions = "out.2.positional_embedding"
    attention = positions in shapes
    return ClassifierConfig(
        **common,  # type: ignore[arg-type]  # made above, each value by its own name
        out_channels=size_of(shapes, "out.2.c_proj.weight" if attention else "out.3.weight", 0),
        pool="attention" if attention else "adaptive",
        image_size=image_size_of(size_of(shapes, positions, 1), levels) if attention else None,
    )


def _is_unet(shapes: Shapes) -> bool:
    return any(name.startswith("output_blocks.") for name in shapes)


def size_of(shapes: Shapes, name: str, axis: int) -> int:
    """One axis of a tensor that the network cannot be without."""
    shape = shapes.get(name)
    if shape is None or len(shape) <= axis:
        raise InputError(f"looks like {looks_like(shapes)}, but {name} is missing or has another shape")
    return shape[axis]


def _blocks(shapes: Shapes, side: str) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{side}_blocks.")})


def _depth(shapes: Shapes) -> tuple[int, int]:
    """(levels, residual blocks a level): of ways to cut the blocks into equal levels, the one that the shapes allow."""
    count = _blocks(shapes, "input")
    cuts = [(levels, count // levels - 1) for levels in range(1, count // 2 + 1) if count % levels == 0]
    if _is_unet(shapes):
        # On the way up a level's last block ends with the resampling, which shows as one layer more.
        ups = {
            name.split(".")[1]
            for name in shapes
            if re.match(r"output_blocks\.\d+\.([1-9]\d*\.in_layers\.[01]|\d+\.conv)\.weight", name)
        }
        cuts = [(levels, blocks) for levels, blocks in cuts if levels == len(ups) + 1]
    cuts = [(levels, blocks) for levels, blocks in cuts if _levels_agree(shapes, levels, blocks)]
    if len(cuts) != 1:
        raise InputError(f"looks like {looks_like(shapes)}, but its {count} input blocks do not tell its levels")
    return cuts[0]


def _levels_agree(shapes: Shapes, levels: int, blocks: int) -> bool:
    """Whether every level has one width, attention in all of its blocks or none, and then resamples."""
    convs = {name.split(".")[1] for name in shapes if re.match(r"input_blocks\.\d+\.0\.op\.weight", name)}
    if convs and convs != {str(level * (blocks + 1)) for level in range(1, levels)}:
        return False
    for level in range(levels):
        first = 1 + level * (blocks + 1)
        inside = range(first, first + blocks)
        if len({(_wide(shapes, at), f"input_blocks.{at}.1.qkv.weight" in shapes) for at in inside}) > 1:
            return False
        down = first + blocks
        grows = any(f"input_blocks.{down}.{key}" in shapes for key in ("0.skip_connection.weight", "1.qkv.weight"))
        if level + 1 < levels and (grows or _wide(shapes, down) != _wide(shapes, first)):
            return False
    return True


def _wide(shapes: Shapes, block: int) -> int:
    conv = f"input_blocks.{block}.0.op.weight"
    return size_of(shapes, conv if conv in shapes else f"input_blocks.{block}.0.in_layers.2.weight", 0)
