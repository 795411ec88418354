"""The collage: patches half a patch off, and what the patches of the image take of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.nets import normal
from tileloom.models.collage import PatchGrid, collage, cut, from_quarters, pad, quarters, stitch
from tileloom.tiling.errors import InputError

SIZES = st.integers(1, 4)
SIDES = st.sampled_from([2, 4, 6])


def features(images, grid, side, channels=2):
    """Features of all encoder patches, no two values alike."""
    count = images * grid.encoder_count * channels * side * side
    return torch.arange(float(count)).reshape(-1, channels, side, side)


def by_quarters(maps, grid):
    """The collage of one image, each decoder patch from the four encoder patches around it."""
    parts = quarters(maps).reshape(
        grid.rows + 1, grid.cols + 1, 2, 2, *(maps.shape[1], maps.shape[2] // 2, maps.shape[2] // 2)
    )
    return from_quarters(
        parts[:-1, :-1, 1, 1].flatten(0, 1),
        parts[:-1, 1:, 1, 0].flatten(0, 1),
        parts[1:, :-1, 0, 1].flatten(0, 1),
        parts[1:, 1:, 0, 0].flatten(0, 1),
    )


def test_a_decoder_patch_is_made_of_the_quarters_around_its_centre():
    """Of 2 x 2 encoder patches named a b c d, with a quarter at each corner, the inner ones remain."""
    names = torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]], [[13, 14], [15, 16]]])
    moved = collage(names[:, None], PatchGrid(1, 1))
    assert moved.tolist() == [[[[4, 7], [10, 13]]]]


def test_padding_is_half_a_patch_of_zeros_and_the_patches_lie_row_by_row():
    x = torch.arange(1.0, 33).reshape(1, 1, 4, 8)
    patches = cut(pad(x, 4), 4)
    assert patches.shape == (6, 1, 4, 4)
    assert patches[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 9, 10]]
    assert patches[4, 0].tolist() == [[19, 20, 21, 22], [27, 28, 29, 30], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_positions_are_whole_for_encoder_patches_and_half_way_for_decoder_patches_rows_first():
    grid = PatchGrid(1, 2, top=3, left=7)
    assert grid.encoder_positions().tolist() == [[3, 7], [3, 8], [3, 9], [4, 7], [4, 8], [4, 9]]
    assert grid.decoder_positions().tolist() == [[3.5, 7.5], [3.5, 8.5]]
    assert grid.encoder_positions().dtype is grid.decoder_positions().dtype is torch.float32


@given(st.integers(1, 3), SIZES, SIZES, SIDES)
def test_stitching_undoes_cutting(images, rows, cols, side):
    x = normal(images, 3, rows * side, cols * side)
    assert torch.equal(stitch(cut(x, side), rows, cols), x)


@given(st.integers(1, 3), SIZES, SIZES, SIDES)
def test_of_pixels_the_collage_is_the_image_itself(images, rows, cols, side):
    x, grid = normal(images, 1, rows * side, cols * side), PatchGrid(rows, cols)
    assert torch.equal(collage(cut(pad(x, side), side), grid), cut(x, side))


@given(SIZES, SIZES, SIDES, st.data())
def test_the_collage_of_a_block_is_the_crop_of_the_whole_ones(rows, cols, side, data):
    """Its encoder patches and positions are those of the whole too: a block needs no more than it names."""
    whole = PatchGrid(rows, cols)
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    block = PatchGrid(data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, cols - left)), top, left)
    maps = features(1, whole, side)
    encoder = torch.arange(whole.encoder_count).reshape(rows + 1, cols + 1)
    encoder = encoder[top : top + block.rows + 1, left : left + block.cols + 1].flatten()
    decoder = torch.arange(whole.decoder_count).reshape(rows, cols)
    decoder = decoder[top : top + block.rows, left : left + block.cols].flatten()
    assert torch.equal(collage(maps[encoder], block), collage(maps, whole)[decoder])
    assert torch.equal(block.encoder_positions(), whole.encoder_positions()[encoder])
    assert torch.equal(block.decoder_positions(), whole.decoder_positions()[decoder])
    assert (block.encoder_count, block.decoder_count) == (len(encoder), len(decoder))


@given(SIZES, SIZES, SIDES)
def test_quarters_put_together_are_the_collage(rows, cols, side):
    grid = PatchGrid(rows, cols)
    maps = features(1, grid, side)
    assert torch.equal(by_quarters(maps, grid), collage(maps, grid))


@given(st.integers(2, 3), SIZES, SIZES, SIDES)
def test_images_of_a_batch_do_not_mix(images, rows, cols, side):
    grid = PatchGrid(rows, cols)
    maps = features(images, grid, side)
    apart = [collage(one, grid) for one in maps.split(grid.encoder_count)]
    assert torch.equal(collage(maps, grid), torch.cat(apart))


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 6), (0, 4), (2, 2)])
def test_an_image_of_broken_patches_is_refused(height, width):
    with pytest.raises(InputError, match=f"{height} x {width} pixels are not cut into whole patches of 4 x 4"):
        PatchGrid.of(height, width, 4)
