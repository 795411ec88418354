"""Networks that are told labels: what their tensors tell, what is kept of labels, and how they are guided."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.nets import SEMANTIC, UNET, images, network, shapes, weights
from tileloom.models.check import BrokenDenoiser, check_denoiser
from tileloom.models.checkpoint import parameters_of
from tileloom.models.contract import Contract, asked_network, weights_contract
from tileloom.models.denoiser import Condition
from tileloom.models.networks import load_denoiser
from tileloom.models.semantic import one_hot
from tileloom.models.semantic_config import SemanticConfig
from tileloom.models.semantic_denoiser import SemanticDenoiser
from tileloom.models.signatures import ASSUMED, OPTION, TABLE, Told, read
from tileloom.tiling.box import Box
from tileloom.tiling.errors import InputError
from tileloom.tiling.label_window import LabelWindow

PUBLIC = SemanticConfig(
    model_channels=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=2,
    attention_resolutions=(8, 16, 32),
    num_classes=35,
    edges=True,
)


def window(seed=0, size=16, *, edges=True):
    rng = np.random.default_rng(seed)
    where = rng.random((size, size)) < 0.2 if edges else None
    return LabelWindow(Box(0, 0, size, size), rng.integers(0, 5, (size, size)).astype(np.uint16), where)


def denoiser(config=SEMANTIC, **how):
    classes = {"label_classes": 5, "label_edges": config.edges}
    terms = Contract("net", 3, config.size_multiple, 16, 4, conditions=("labels",), **classes)
    return SemanticDenoiser(network(config), terms, **how)


def told(*windows):
    return [Condition(labels=labels) for labels in windows]


# --- what tensors tell ---


def test_the_network_of_cityscapes_has_as_many_parameters_as_the_published_program_gives_it():
    assert parameters_of(PUBLIC) == 653_984_518


@pytest.mark.parametrize(
    "config",
    [
        replace(SEMANTIC, edges=False),
        replace(SEMANTIC, edges=False, resblock_updown=False, channel_mult=(1, 2, 1), attention_resolutions=()),
        replace(SEMANTIC, edges=False, num_res_blocks=2, channel_mult=(1,), attention_resolutions=(), out_channels=3),
    ],
)
def test_shapes_tell_the_network_but_for_its_heads_and_edges(config):
    assert read(shapes(config)).config == config
    edged = read(shapes(config), Told(edges=True))
    assert edged.config == replace(config, num_classes=4, edges=True)
    assert dict((name, origin) for name, _, origin in edged.facts())["edges"] == OPTION


def test_whether_the_last_channel_is_that_of_edges_is_known_of_published_networks_alone():
    origins = {
        classes: {name: origin for name, _, origin in read(shapes(config)).facts()}["edges"]
        for classes, config in {20: replace(PUBLIC, num_classes=19), 36: PUBLIC}.items()
    }
    assert origins == {20: TABLE, 36: ASSUMED}
    assert read(shapes(replace(PUBLIC, num_classes=19))).config.edges
    assert not read(shapes(PUBLIC)).config.edges


def test_a_file_is_loaded_strictly_and_says_what_it_takes(tmp_path):
    terms = weights_contract(weights(tmp_path, SEMANTIC), {"edges": True})
    assert (terms.conditions, terms.label_classes, terms.label_edges, terms.classes) == (("labels",), 5, True, None)
    with pytest.raises(InputError, match=r"SPADE.*1 key is unexpected \(middle_block.0.in_norm.extra\)"):
        weights_contract(
            weights(tmp_path, SEMANTIC, name="odd.pt", **{"middle_block.0.in_norm.extra": torch.zeros(1)}), {}
        )
    lacking = weights(tmp_path, SEMANTIC, name="lacking.pt", **{"output_blocks.0.0.out_norm.mlp_beta.bias": None})
    with pytest.raises(InputError, match=r"SPADE.*1 key is missing \(output_blocks.0.0.out_norm.mlp_beta.bias\)"):
        load_denoiser(lacking)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label": 3}, "model.label is no option of .*SPADE.* guidance_scale, .*edges"),
        ({"compile": True}, "model.compile is no option"),
        ({"edges": 1}, "model.edges is 1; choose true or false"),
        ({"guidance_scale": "much"}, "model.guidance_scale is 'much'; give a number, 1 for none"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        weights_contract(weights(tmp_path, SEMANTIC), options)


def test_other_networks_take_no_such_options(tmp_path):
    with pytest.raises(InputError, match=r"model\.guidance_scale is no option"):
        asked_network(weights(tmp_path, UNET), {"guidance_scale": 1.5})


# --- what it is told ---


def test_labels_are_one_channel_a_class_and_none_is_all_zero():
    classes = torch.tensor([[[0, 4], [-1, 2]]])
    y = one_hot(classes, torch.tensor([[[1, 0], [0, 0]]]), SEMANTIC)
    assert y.shape == (1, 6, 2, 2)
    assert torch.equal(y[0, :5].argmax(0) * y[0, :5].sum(0), torch.tensor([[0.0, 4.0], [0.0, 2.0]]))
    assert torch.equal(y[0, :5].sum(0), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert torch.equal(y[0, 5], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_the_labels_of_a_window_are_told_as_the_network_has_them():
    x, t = images(2)
    shown = window(1), window(2)
    y = torch.cat(
        [
            one_hot(*[torch.from_numpy(array.astype(np.int64))[None] for _, array in labels.arrays()], SEMANTIC)
            for labels in shown
        ]
    )
    alone = denoiser()
    torch.testing.assert_close(alone.predict(x, t, told(*shown)), alone.network(x, t, y), atol=1e-5, rtol=1e-5)
    assert not torch.equal(alone.predict(x, t, told(*shown)), alone.predict(x, t, told(*reversed(shown))))


def test_edges_that_are_lacking_are_refused():
    x, t = images(1)
    with pytest.raises(InputError, match=r"told edges"):
        denoiser().predict(x, t, told(window(edges=False)))


# --- what is kept ---


@pytest.mark.parametrize(("room", "again"), [(2**30, 0), (0, 3)])
def test_what_norms_make_of_labels_is_made_once_a_window_where_there_is_room_and_is_the_same_bits(room, again):
    x, t = images(2)
    shown = window(1), window(2)
    made = []
    counted = denoiser(room=room)
    norms = [part for part in counted.network.modules() if hasattr(part, "mlp_gamma")]
    for norm in norms:
        norm.mlp_gamma.register_forward_hook(lambda *_: made.append(1))
    first = counted.predict(x, t, told(*shown))
    begun = len(made)
    assert begun == 2 * len(norms)
    second = counted.predict(x, t, told(*shown))
    assert len(made) - begun == (2 * len(norms) if again else 0)
    assert torch.equal(first, second)
    assert torch.equal(first, denoiser(room=2**30 - room).predict(x, t, told(*shown)))


@pytest.mark.parametrize("detail", [0, 8])
def test_the_labels_of_single_pixels_count_where_a_stem_folds_them_if_there_are_details(detail):
    x, t = images(1, size=(32, 32))
    shown = window(size=32)
    classes = shown.classes.copy()
    classes[5, 7] = (classes[5, 7] + 1) % 5
    other = LabelWindow(shown.box, classes, shown.edges)
    ours = denoiser(replace(SEMANTIC, stem=2, detail=detail))
    first, second = (ours.predict(x, t, told(one)) for one in (shown, other))
    assert torch.equal(first, second) == (not detail)
    assert torch.equal(ours.predict(x, t, told(shown)), first)


def test_rows_that_are_told_the_same_have_it_made_once_where_nothing_is_kept():
    x, t = images(3)
    made = []
    guided = denoiser(scale=1.5, room=0)
    norms = [part for part in guided.network.modules() if hasattr(part, "mlp_gamma")]
    for norm in norms:
        norm.mlp_gamma.register_forward_hook(lambda *_: made.append(1))
    answer = guided.predict(x, t, told(window(1), window(2)))
    # Two windows, of which the last pads the batch, and what is told nothing.
    assert len(made) == 3 * len(norms)
    assert torch.equal(answer[:2], denoiser(scale=1.5).predict(x, t, told(window(1), window(2), window(3)))[:2])


def test_what_was_kept_of_a_window_goes_with_it():
    x, t = images(1)
    small = denoiser()
    shown = window()
    small.predict(x, t, told(shown))
    assert len(small._rows) == 1
    del shown
    assert len(small._rows) == 0


def test_of_many_windows_that_live_no_more_are_kept_than_memory_counts():
    x, t = images(2)
    shown = [window(seed) for seed in range(8)]
    kept = denoiser(scale=2.0)
    lanes = [ThreadPoolExecutor(1) for _ in range(2)]
    for lane, held in zip(lanes, (3, 6), strict=True):
        for at in range(0, 8, 2):
            lane.submit(kept.predict, x, t, told(*shown[at : at + 2])).result()
        assert len(kept._rows) + len(kept._untold) == held
    lane = kept.memory((2, 3, 16, 16))[1] - replace(kept, room=0).memory((2, 3, 16, 16))[1]
    assert held * kept._kept_bytes((16, 16)) == 2 * lane


def test_memory_counts_what_is_kept_up_to_the_room():
    shape = (2, 3, 16, 16)
    roomy, tight = denoiser().memory(shape)[1], denoiser(room=0).memory(shape)[1]
    x, t = images(2)
    kept = denoiser()
    kept.predict(x, t, told(*(shown := (window(1), window(2)))))
    held = [pair for row in [*kept._rows.values()] for pair in row.made.values()]
    assert len(shown) == 2
    assert sum(tensor.nbytes for pair in held for tensor in pair) == 2 * kept._kept_bytes((16, 16))
    assert roomy - tight == 2 * kept._kept_bytes((16, 16))


def test_without_guidance_what_is_told_nothing_takes_no_place_of_a_window():
    x, t = images(2)
    shown = window(1), window(2)
    kept = denoiser()
    kept = replace(kept, room=2 * kept._kept_bytes((16, 16)))
    kept.predict(x, t, told(None, None))
    whole = kept.predict(x, t, told(*shown))
    assert len(kept._rows) == 2
    assert torch.equal(kept.predict(x, t, told(shown[0]))[:1], whole[:1])
    assert not kept._untold


# --- precision ---


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_near_and_its_bits_do_not_depend_on_what_is_kept(tmp_path, precision):
    x, t = images(2)
    shown = told(window(1), window(2))
    model = {"name": weights(tmp_path, SEMANTIC), "edges": True}
    full, reduced = (load_denoiser({**model, "precision": kind}) for kind in ("fp32", precision))
    first = reduced.predict(x, t, shown)
    assert (first - full.predict(x, t, shown)).abs().max() < 0.1 * first.abs().max()
    assert torch.equal(first, reduced.predict(x, t, shown))
    assert torch.equal(first, replace(reduced, room=0).predict(x, t, shown))


# --- guidance ---


def test_guidance_leans_away_from_what_is_told_nothing_and_leaves_the_variance():
    x, t = images(2)
    shown = told(window(1), window(2))
    plain = denoiser()
    cond, null = plain.predict(x, t, shown), plain.predict(x, t, told(None, None))
    guided = denoiser(scale=1.5).predict(x, t, shown)
    torch.testing.assert_close(guided[:, :3], null[:, :3] + 1.5 * (cond[:, :3] - null[:, :3]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guided[:, 3:], cond[:, 3:], atol=1e-5, rtol=1e-5)
    for none in (1.0, 0.5):
        assert torch.equal(denoiser(scale=none).predict(x, t, shown), cond)


def test_both_halves_of_what_is_guided_lie_in_one_batch():
    x, t = images(2)
    seen = []
    guided = denoiser(scale=2.0)
    guided.network.register_forward_hook(lambda _, given, told: seen.append(len(given[0])))
    guided.predict(x, t, told(window()))
    assert seen == [4]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_it_keeps_the_terms_of_denoisers(scale):
    check_denoiser(denoiser(scale=scale), trained=False)


def test_a_network_that_tells_all_rows_the_labels_of_the_first_does_not_pass(monkeypatch):
    predict = SemanticDenoiser.predict
    monkeypatch.setattr(
        SemanticDenoiser, "predict", lambda self, x, t, shown: predict(self, x, t, [shown[0]] * len(shown))
    )
    with pytest.raises(BrokenDenoiser, match="in another slot or company"):
        check_denoiser(denoiser(), trained=False)
