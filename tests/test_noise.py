import math
from hashlib import blake2b
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tileloom.models.noise import Address, PositionNoise, normal, philox
from tileloom.tiling.box import Box

FIELD = PositionNoise(7)
BOX = Box(0, 0, 64, 64)


def window(field, image, level, draw, box, bands):
    return field.windows([Address(image, level, draw, box)], bands)[0]


TOP = 2**32 - 1


def hexes(text):
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    a, b, c, d = (torch.tensor([word]) for word in hexes(counter))
    assert tuple(int(word) for word in philox((a, b, c, d), hexes(key))) == hexes(words)


def test_counters_broadcast_like_their_full_grids():
    parts = [torch.arange(3)[:, None], torch.tensor(5), torch.arange(4), torch.tensor(9)]
    full = torch.broadcast_tensors(*parts)
    for short, long in zip(philox(tuple(parts), (1, 2)), philox(full, (1, 2)), strict=True):
        assert torch.equal(short, long)


def distribution(value):
    return math.erfc(-value / math.sqrt(2)) / 2


@given(st.integers(0, TOP // 2))
def test_normals_invert_the_distribution_function(word):
    value = normal(torch.tensor([word])).item()
    assert distribution(value) == pytest.approx((word + 0.5) / 2**32, rel=4e-6)


def test_the_whole_tail_inverts_the_distribution_function():
    words = [*range(200), *(2**k for k in range(32)), *(int(0.075 * 2**32) + k for k in range(-50, 50))]
    for word, value in zip(words, normal(torch.tensor(words)).tolist(), strict=True):
        assert distribution(value) == pytest.approx((word + 0.5) / 2**32, rel=4e-6)


@given(st.integers(0, TOP))
def test_normals_are_antisymmetric_to_the_bit(word):
    values = normal(torch.tensor([word, TOP - word]))
    assert values[0] == -values[1]


@given(st.integers(0, TOP - 1))
def test_normals_never_decrease(word):
    values = normal(torch.tensor([word, word + 1]))
    assert values[0] <= values[1]


def test_the_extremes_are_finite():
    assert normal(torch.tensor([TOP])).item() == pytest.approx(6.3379, abs=1e-3)


def test_a_value_does_not_depend_on_its_place_in_the_tensor():
    words = torch.randint(0, TOP, (257,), generator=torch.Generator().manual_seed(0))
    together = normal(words)
    assert all(torch.equal(normal(words[k : k + 1]), together[k : k + 1]) for k in range(257))
    assert torch.equal(normal(words[::2]), together[::2])


def test_moments_are_those_of_the_standard_normal():
    values = window(FIELD, "scene", 0, 0, Box(0, 0, 400, 400), 4).double()
    count = values.numel()
    for power, moment, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert (values**power).mean().item() == pytest.approx(moment, abs=4.5 * math.sqrt(spread / count))
    assert (values.abs() > 3).double().mean().item() == pytest.approx(2 * distribution(-3), rel=0.08)


def test_windows_are_float32_bands_rows_columns():
    noise = window(FIELD, "scene", 2, 5, Box(3, 4, 10, 20), 3)
    assert noise.shape == (3, 7, 16)
    assert noise.dtype == torch.float32


@given(
    st.tuples(*[st.integers(0, 5000)] * 2),
    st.tuples(*[st.integers(1, 24)] * 2),
    st.tuples(*[st.integers(0, 8)] * 4),
    st.integers(1, 9),
)
def test_overlapping_windows_share_their_noise_to_the_bit(origin, shape, grown, bands):
    box = Box(*origin, origin[0] + shape[0], origin[1] + shape[1])
    outer = Box(max(0, box.top - grown[0]), max(0, box.left - grown[1]), box.bottom + grown[2], box.right + grown[3])
    whole = window(FIELD, "scene", 1, 3, outer, bands)
    assert torch.equal(window(FIELD, "scene", 1, 3, box, bands), whole[:, *box.within(outer)])


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_number_of_bands_changes_no_value(few, many):
    few, many = sorted((few, many))
    box = Box(11, 5, 20, 17)
    assert torch.equal(window(FIELD, "scene", 0, 0, box, few), window(FIELD, "scene", 0, 0, box, many)[:few])


def related_windows():
    return {
        "reference": window(FIELD, "scene", 0, 0, BOX, 1),
        "next draw": window(FIELD, "scene", 0, 1, BOX, 1),
        "late draw": window(FIELD, "scene", 0, 70_000, BOX, 1),
        "next level": window(FIELD, "scene", 1, 0, BOX, 1),
        "other image": window(FIELD, "scenf", 0, 0, BOX, 1),
        "next seed": window(PositionNoise(8), "scene", 0, 0, BOX, 1),
        "negative seed": window(PositionNoise(-7), "scene", 0, 0, BOX, 1),
        "second band": window(FIELD, "scene", 0, 0, BOX, 2)[1:],
        "fifth band": window(FIELD, "scene", 0, 0, BOX, 5)[4:],
        "next row": window(FIELD, "scene", 0, 0, BOX.shift(1, 0), 1),
        "next column": window(FIELD, "scene", 0, 0, BOX.shift(0, 1), 1),
        "far column": window(FIELD, "scene", 0, 0, BOX.shift(0, 2**24), 1),
        "rows for columns": window(FIELD, "scene", 0, 0, BOX, 1).mT,
    }


def test_every_part_of_the_address_gives_unrelated_noise():
    for (one, a), (other, b) in combinations(related_windows().items(), 2):
        assert (a == b).float().mean() < 0.05, (one, other)
        assert abs((a * b).mean().item()) < 5 / math.sqrt(BOX.area), (one, other)


def test_seed_and_image_do_not_run_together():
    one = window(PositionNoise(1), "1a", 0, 0, BOX, 1)
    assert not torch.equal(one, window(PositionNoise(11), "a", 0, 0, BOX, 1))


def test_negative_coordinates_are_refused():
    with pytest.raises(ValueError, match="begins at row 0"):
        window(FIELD, "scene", 0, 0, Box(-1, 0, 3, 3), 1)


def test_the_bits_of_a_window_are_frozen():
    noise = window(PositionNoise(2024), "scene-1", 1, 42, Box(100, 2000, 164, 2064), 3)
    assert blake2b(noise.numpy().tobytes(), digest_size=16).hexdigest() == "7b5064fc3f86ce2a380ebc6e62ad94c7"


def test_windows_are_the_same_drawn_together():
    boxes = [Box(0, 0, 9, 7), Box(40, 3, 49, 10), Box(4, 4, 13, 11)]
    addresses = [Address(f"scene {at}", at, 7 * at, box) for at, box in enumerate(boxes)]
    together = FIELD.windows([*addresses, addresses[0]], 5)
    assert together.shape == (4, 5, 9, 7)
    for noise, address in zip(together, [*addresses, addresses[0]], strict=True):
        assert torch.equal(noise, window(FIELD, *address, 5))
