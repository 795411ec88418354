"""What the names and shapes of a set of tensors tell of the semantic diffusion network that they belong to."""

from __future__ import annotations

import re

from .semantic_config import SemanticConfig
from .shapes import SEMANTIC_MARK, Shapes, refuse_foreign, size_of, usual_heads, way_down

_DOWN = r"(in_layers\.[02]|emb_layers\.1|out_layers\.[03]|skip_connection|norm|qkv|proj_out|op)"
_UP = (
    r"((in|out)_norm\.(mlp_shared\.0|mlp_gamma|mlp_beta)|in_layers\.1|emb_layers\.1|out_layers\.2|skip_connection"
    r"|norm|qkv|proj_out|conv)"
)
_NAMES = re.compile(
    rf"(time_embed\.[02]|input_blocks\.0\.0|out\.[02]|input_blocks\.\d+\.\d+\.{_DOWN}"
    rf"|(output_blocks\.\d+|middle_block)\.\d+\.{_UP})\.(weight|bias)"
)
_LABELS = "middle_block.0.in_norm.mlp_shared.0.weight"
_ROOTS = ("time_embed.0.weight", "input_blocks.0.0.weight", _LABELS, "output_blocks.0.0.in_layers.1.weight")


def is_semantic(shapes: Shapes) -> bool:
    """Whether tensors are those of a network that is told labels."""
    return any(SEMANTIC_MARK in name for name in shapes)


def semantic_layout(shapes: Shapes) -> SemanticConfig:
    """The network as far as shapes tell it: all channels of its labels are taken for those of classes."""
    refuse_foreign(shapes, names=_NAMES, roots=_ROOTS, like="a semantic diffusion network")
    down = way_down(shapes, size_of(shapes, "time_embed.0.weight", 1))
    return SemanticConfig(
        **down,
        **usual_heads(down),
        out_channels=size_of(shapes, "out.2.weight", 0),
        resblock_updown=not any(re.search(r"_blocks\.\d+\.\d+\.(op|conv)\.", name) for name in shapes),
        num_classes=size_of(shapes, _LABELS, 1),
    )
