"""The pixel classifier against scikit-learn on dense features; files; bad strokes."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from napari_hrdv2.core import strokes as strokes_module
from napari_hrdv2.core.base import FORMAT_VERSION, PixelClass, check_strokes, default_class
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import ModelError, SettingsMismatchError, StrokesError
from napari_hrdv2.core.segment import segment
from napari_hrdv2.core.strokes import StrokeRows, Training, thinned
from napari_hrdv2.core.tuning import DEFAULT
from napari_hrdv2.core.upsample import dense_map, rows_at

SHAPE = (42, 51)
# Channels of the tokens, and with those of the filters.
TOKENS, ALL = 128, 128 + 28


def image_of(seed: int = 0) -> np.ndarray:
    """Smooth on the left, rough on the right, bright at the bottom."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=SHAPE) * np.linspace(0.05, 1, SHAPE[1])
    image[28:] += 3
    return image


def strokes_of(classes: int = 3) -> np.ndarray:
    strokes = np.zeros(SHAPE, np.uint8)
    strokes[4:7, 3:15] = 2
    strokes[5:20, 40:42] = 5
    strokes[36:38, 10:40] = 9
    strokes[strokes > (0, 0, 5, 9)[classes]] = 0
    return strokes


@pytest.fixture(scope="module")
def tokens(make_extractor):
    return make_extractor(passes=3, filters=True).extract(image_of())


@pytest.fixture(scope="module")
def more_tokens(make_extractor):
    return make_extractor(passes=3, filters=True).extract(image_of(1))


@pytest.fixture(scope="module")
def fitted(tokens):
    return PixelClassifier().fit(tokens, strokes_of())


# --- scikit-learn's conventions


def test_parameters_are_kept_as_given_and_cloned():
    params = {"method": "ridge", "C": 0.5, "emphasis": 2, "balance": 0}
    params |= {"max_pixels": 7, "max_iter": 3, "tol": 0.1}
    one = PixelClassifier(**params)
    assert one.get_params() == params
    assert clone(one).get_params() == params
    assert one.set_params(C=2).C == 2
    assert repr(PixelClassifier("ridge")) == "PixelClassifier(method='ridge')"


def test_a_clone_is_not_fitted(fitted, tokens):
    with pytest.raises(NotFittedError):
        clone(fitted).predict(tokens)


def test_unfitted_models_neither_predict_nor_save(tokens, tmp_path):
    for act in (
        lambda m: m.predict(tokens),
        lambda m: m.predict_proba(tokens),
        lambda m: m.save(tmp_path / "model"),
    ):
        with pytest.raises(NotFittedError):
            act(PixelClassifier())
    assert not list(tmp_path.iterdir())


def test_fit_gives_itself_and_its_attributes(tokens):
    model = PixelClassifier()
    assert model.fit(tokens, strokes_of()) is model
    assert model.classes_.tolist() == [2, 5, 9]
    assert model.coef_.shape == (3, ALL)
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    assert model.n_features_in_ == ALL
    assert model.settings_ == tokens.settings


# --- against scikit-learn


def naive(
    method: str, features: list[np.ndarray], strokes: list[np.ndarray], *, balance=0.5, tol=1e-3
):
    """Pipeline fitted on the painted rows of dense maps."""
    x = np.concatenate([f[s > 0] for f, s in zip(features, strokes, strict=True)])
    y = np.concatenate([s[s > 0] for s in strokes])
    weight = {k: (y == k).sum() ** -float(balance) for k in np.unique(y).tolist()}
    mean = np.mean([weight[k] for k in y.tolist()])
    weight = {k: w / mean for k, w in weight.items()}
    if balance in (0, 1):
        weight = "balanced" if balance else None
    if method == "logistic":
        last = LogisticRegression(C=0.03, class_weight=weight, max_iter=1000, tol=tol)
    else:
        last = RidgeClassifier(alpha=1 / 0.03, class_weight=weight)
    anywhere = []
    for one in features:
        at = (np.linspace(0, n - 1, min(n, 32)).astype(int) for n in one.shape[:2])
        anywhere.append(one[np.ix_(*at)].reshape(-1, one.shape[-1]))
    mean, scale = x.mean(0), np.maximum(x.std(0), np.concatenate(anywhere).std(0))
    factors = np.where(np.arange(x.shape[1]) < TOKENS, 0.3, 1.0)
    # Gradient, structure tensor and deviation at three scales, after the intensity itself.
    factors[
        [k for k in range(TOKENS + 1, len(factors)) if (k - TOKENS - 1) % 9 in (2, 6, 7, 8)]
    ] = 0.4
    standardised = FunctionTransformer(lambda rows: (rows - mean) / scale * factors)
    return make_pipeline(standardised, last).fit(x.astype(np.float64), y)


@pytest.mark.parametrize("method", ["logistic", "ridge"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("balance", [0, 0.5, 1])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("filters", [False, True])
def test_equals_a_pipeline_on_dense_features(
    tokens, more_tokens, method, classes, balance, images, filters
):
    used = [tokens, more_tokens][:images]
    if not filters:
        used = [replace(one, filters=()) for one in used]
    tokens = used[0]
    strokes = [strokes_of(classes), np.flip(strokes_of(classes), 0)][:images]
    dense = [dense_map(t) for t in used]
    pipeline = naive(method, dense, strokes, balance=balance, tol=1e-9)
    model = PixelClassifier(method, C=0.03, emphasis=0.3, balance=balance, tol=1e-9).fit(
        used if images > 1 else tokens, strokes if images > 1 else strokes[0]
    )
    rows = dense[0].reshape(-1, dense[0].shape[-1]).astype(np.float64)
    expected = pipeline.decision_function(rows)
    found = model.decision_function(tokens).reshape(len(rows), -1)
    assert found.shape[1] == classes
    if classes == 2:
        found = found[:, 1] - found[:, 0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        found - found.mean(-1, keepdims=True),
        expected - expected.mean(-1, keepdims=True),
        atol=2e-3 * scale,
    )
    labels = pipeline.predict(rows).reshape(SHAPE)
    assert (model.predict(tokens) == labels).mean() > 0.99
    assert len(np.unique(labels)) == classes
    if method == "logistic":
        probabilities = pipeline.predict_proba(rows)
        np.testing.assert_allclose(
            model.predict_proba(tokens).reshape(len(rows), -1), probabilities, atol=2e-3
        )


def test_fit_stops_early_enough_to_make_no_difference(tokens):
    exact = naive("logistic", [dense_map(tokens)], [strokes_of()], tol=1e-8)
    rows = dense_map(tokens).reshape(-1, ALL).astype(np.float64)
    model = PixelClassifier(C=0.03, emphasis=0.3).fit(tokens, strokes_of())
    found = model.predict_proba(tokens).reshape(-1, 3)
    np.testing.assert_allclose(found, exact.predict_proba(rows), atol=0.03)
    assert (model.predict(tokens).ravel() == exact.predict(rows)).mean() > 0.99


def test_probabilities_sum_to_one_and_agree_with_the_labels(fitted, tokens):
    probabilities, labels = fitted.predict_proba(tokens), fitted.predict(tokens)
    assert probabilities.shape == (*SHAPE, 3)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(-1)], labels)
    assert labels.dtype == np.uint16


def test_strokes_keep_their_own_labels(fitted, tokens):
    strokes, labels = strokes_of(), fitted.predict(tokens)
    assert (labels == strokes)[strokes > 0].mean() > 0.95


def test_balanced_classes_do_not_hang_on_how_much_is_painted(tokens):
    """Painting each pixel of one class in both images counts no more than in one."""
    strokes = strokes_of(2)
    only = np.where(strokes == 2, strokes, 0)
    fixed = DEFAULT._asdict()
    once = PixelClassifier(balance=1, **fixed).fit(
        [tokens, tokens], [strokes, np.zeros_like(strokes)]
    )
    twice = PixelClassifier(balance=1, **fixed).fit([tokens, tokens], [strokes, only])
    unfair = PixelClassifier(balance=0, **fixed).fit([tokens, tokens], [strokes, only])
    at = strokes == 2
    gain = (twice.predict_proba(tokens)[at, 0] - once.predict_proba(tokens)[at, 0]).mean()
    unfair_gain = (unfair.predict_proba(tokens)[at, 0] - once.predict_proba(tokens)[at, 0]).mean()
    assert abs(gain) < abs(unfair_gain)


def test_no_more_than_max_pixels_of_a_class_are_used(tokens, more_tokens):
    model = PixelClassifier(max_pixels=10)
    strokes = strokes_of()
    strokes[0, 0] = 7  # of one pixel, it is kept whole
    drawings = [check_strokes(s, SHAPE) for s in (strokes, strokes_of())]
    rows = StrokeRows()
    parts = [
        Training.of(t, s, rows, 10) for t, s in zip((tokens, more_tokens), drawings, strict=True)
    ]
    joined = Training.join(parts, 10)
    for label in (2, 5, 9, 7):
        count = (joined.labels == label).sum()
        assert (1 if label == 7 else 5) <= count <= 11
    # Spread over the stroke.
    assert np.ptp(thinned(np.full(100, 9), 10)) >= 90
    labels = model.fit([tokens, more_tokens], drawings).predict(tokens)
    assert (labels == strokes)[strokes == 9].mean() > 0.9


def test_segment_does_all_at_once(tokens, make_extractor, tiny_weights):
    expected = PixelClassifier().fit(tokens, strokes_of()).predict(tokens)
    found = segment(image_of(), strokes_of(), extractor=make_extractor(passes=3, filters=True))
    np.testing.assert_array_equal(found, expected)
    found = segment(
        image_of(),
        strokes_of(),
        weights=tiny_weights,
        passes=3,
        zooms=(1.0,),
        depth=1.0,
        device="cpu",
        precision="float32",
    )
    np.testing.assert_array_equal(found, expected)


def test_a_constant_image_is_segmented_without_complaint(make_extractor):
    labels = segment(np.ones(SHAPE), strokes_of(), extractor=make_extractor(passes=1))
    assert set(np.unique(labels)) <= {2, 5, 9}


# --- names and colours


def test_classes_without_a_name_get_one_and_all_colours_differ(fitted):
    assert [c.name for c in fitted.pixel_classes_] == ["class 2", "class 5", "class 9"]
    assert len({default_class(k).colour for k in range(1, 9)}) == 8
    assert default_class(9).colour == default_class(1).colour


def test_classes_are_given_as_mapping_or_sequence(tokens):
    five = PixelClass(label=5, name="grain", colour=(1, 0, 0, 0.5))
    for classes in ([five], {5: five}):
        model = PixelClassifier().fit(tokens, strokes_of(), classes)
        assert model.pixel_classes_ == (default_class(2), five, default_class(9))


# --- bad strokes


def one_class() -> np.ndarray:
    return np.where(strokes_of() == 2, 2, 0)


BAD_STROKES = {
    "none": (np.zeros(SHAPE, int), "nothing is painted"),
    "one class only": (one_class(), "only class 2 is painted"),
    "bool, so one class": (strokes_of() > 0, "only class 1 is painted"),
    "another shape": (strokes_of()[1:], "shape"),
    "transposed": (strokes_of().T, "shape"),
    "colours": (np.zeros((*SHAPE, 3), int), "shape"),
    "negative": (np.where(strokes_of() == 2, -1, 3), "label -1"),
    "huge": (np.where(strokes_of() == 2, 65_536, 3), "label 65536"),
    "beyond all 64-bit integers": (np.full(SHAPE, 2**64 - 1, np.uint64), f"label {2**64 - 1}"),
    "floats": (strokes_of().astype(float), "whole numbers"),
    "complex": (strokes_of().astype(complex), "whole numbers"),
    "text": (np.full(SHAPE, "a"), "whole numbers"),
}


@pytest.mark.parametrize("kind", BAD_STROKES)
@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_bad_strokes_are_one_line_errors(tokens, kind, method):
    strokes, words = BAD_STROKES[kind]
    with pytest.raises(StrokesError, match=words) as caught:
        PixelClassifier(method).fit(tokens, strokes)
    assert "\n" not in str(caught.value)


def test_the_largest_label_is_fine(tokens):
    strokes = strokes_of(2).astype(np.int64)
    strokes[strokes == 5] = 65_535
    assert set(np.unique(PixelClassifier().fit(tokens, strokes).predict(tokens))) == {2, 65_535}


def test_images_and_strokes_must_be_as_many(tokens):
    with pytest.raises(StrokesError, match="2 images but 1 strokes"):
        PixelClassifier().fit([tokens, tokens], [strokes_of()])
    with pytest.raises(StrokesError, match="no image"):
        PixelClassifier().fit([], [])


def test_classes_may_be_painted_in_different_images(tokens, more_tokens):
    strokes = strokes_of(2)
    model = PixelClassifier().fit(
        [tokens, more_tokens], [np.where(strokes == 2, 2, 0), np.where(strokes == 5, 5, 0)]
    )
    assert model.classes_.tolist() == [2, 5]


def test_unknown_method_is_a_clear_error(tokens):
    with pytest.raises(ModelError, match="'logistic' or 'ridge', not 'svm'"):
        PixelClassifier("svm").fit(tokens, strokes_of())


# --- tokens of other settings


def test_tokens_of_other_settings_are_refused_by_the_names_that_differ(
    fitted, tokens, make_extractor
):
    other = make_extractor(passes=2, stride=7, kernel="nearest").extract(image_of())
    for act in (
        lambda: fitted.predict(other),
        lambda: fitted.predict_proba(other),
        lambda: PixelClassifier().fit([tokens, other], [strokes_of()] * 2),
    ):
        with pytest.raises(SettingsMismatchError) as caught:
            act()
        message = str(caught.value)
        for words in ("passes 3 against 2", "stride 14 against 7", "kernel 'bilinear' against"):
            assert words in message
        assert "flips" not in message


def test_tokens_of_other_weights_are_refused(fitted, make_extractor, tiny_reg_weights):
    other = make_extractor(passes=3, weights=tiny_reg_weights).extract(image_of())
    with pytest.raises(SettingsMismatchError, match="weights_sha256"):
        fitted.predict(other)


def test_unfinished_tokens_of_the_same_settings_are_welcome(fitted, make_extractor):
    first = next(make_extractor(passes=3, filters=True).passes(image_of()))
    assert first.passes == 1
    assert fitted.predict(first).shape == SHAPE


# --- files


@pytest.fixture
def saved(tokens, tmp_path):
    five = PixelClass(label=5, name="größeres Korn", colour=(0.1, 0.2, 0.3, 1.0))
    model = PixelClassifier(C=0.02, max_pixels=50).fit(tokens, strokes_of(), [five])
    path = tmp_path / "model.hrdv2"
    model.save(path)
    return model, path


def test_saved_model_predicts_the_same_after_loading(saved, tokens):
    model, path = saved
    back = PixelClassifier.load(path)
    np.testing.assert_array_equal(back.decision_function(tokens), model.decision_function(tokens))
    np.testing.assert_array_equal(back.predict(tokens), model.predict(tokens))
    assert back.get_params() == model.get_params()
    assert back.pixel_classes_ == model.pixel_classes_
    assert back.pixel_classes_[1].name == "größeres Korn"
    assert back.settings_ == model.settings_
    np.testing.assert_array_equal(back.classes_, model.classes_)
    assert back.n_features_in_ == ALL


def test_loaded_model_refuses_other_settings(saved, make_extractor):
    other = make_extractor(passes=2).extract(image_of())
    with pytest.raises(SettingsMismatchError, match="passes 3 against 2"):
        PixelClassifier.load(saved[1]).predict(other)


def test_saving_leaves_nothing_beside_the_model_and_can_overwrite(saved):
    model, path = saved
    model.save(path)
    assert list(path.parent.iterdir()) == [path]


def test_saved_model_is_as_readable_as_any_file(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert saved[1].stat().st_mode & 0o777 == 0o666 & ~mask


def test_failure_midway_leaves_the_old_model(saved, fitted, monkeypatch):
    _, path = saved
    before = path.read_bytes()

    def fail(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("the disk is full")

    monkeypatch.setattr(type(path), "write_bytes", fail)
    with pytest.raises(OSError, match="disk is full"):
        fitted.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def rewritten(path, *, header=None, arrays=None, **fields):
    """The model's file with some of its content changed."""
    with safe_open(path, framework="numpy") as file:
        old = json.loads(file.metadata()["napari-hrdv2"])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = {"napari-hrdv2": json.dumps(old | fields)} if header is None else header
    save_file(kept if arrays is None else arrays, path, metadata)
    return path


def test_model_of_a_later_version_says_to_update(saved):
    path = rewritten(saved[1], version=FORMAT_VERSION + 1)
    with pytest.raises(ModelError, match=rf"format {FORMAT_VERSION + 1}.*update"):
        PixelClassifier.load(path)


DAMAGES = {
    "missing": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "empty": lambda p: p.write_bytes(b""),
    "cut at the end": lambda p: p.write_bytes(p.read_bytes()[:-5]),
    "cut in the header": lambda p: p.write_bytes(p.read_bytes()[:40]),
    "text": lambda p: p.write_text("label,name\n1,cell\n"),
    "random bytes": lambda p: p.write_bytes(np.random.default_rng(0).bytes(999)),
    "foreign safetensors": lambda p: save_file({"x": np.ones(3)}, p),
    "foreign metadata": lambda p: save_file({"x": np.ones(3)}, p, {"format": "pt"}),
    "header no JSON": lambda p: rewritten(p, header={"napari-hrdv2": "{"}),
    "header a list": lambda p: rewritten(p, header={"napari-hrdv2": "[1]"}),
    "header of nothing": lambda p: rewritten(p, header={"napari-hrdv2": '{"version": 1}'}),
    "unknown setting": lambda p: rewritten(p, settings={"zoom": 3}),
    "unknown parameter": lambda p: rewritten(p, params={"depth": 3}),
    "no classes": lambda p: rewritten(p, classes=[]),
    "a class of no label": lambda p: rewritten(p, classes=[{"name": "a"}]),
    "no weights": lambda p: rewritten(p, arrays={"x": np.ones(3)}),
    "weights of fewer classes": lambda p: rewritten(
        p, arrays={"coef": np.ones((2, 128)), "intercept": np.ones(2)}
    ),
    "weights of one axis": lambda p: rewritten(
        p, arrays={"coef": np.ones(3), "intercept": np.ones(3)}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_foreign_file_is_a_one_line_error(saved, damage):
    path = saved[1]
    DAMAGES[damage](path)
    with pytest.raises(ModelError) as caught:
        PixelClassifier.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the live loop


def test_a_further_stroke_adds_its_rows_only(tokens, monkeypatch):
    asked = []
    rows_at = strokes_module.rows_at

    def counting(tokens, pixels):
        asked.append(len(pixels))
        return rows_at(tokens, pixels)

    monkeypatch.setattr(strokes_module, "rows_at", counting)
    rows, strokes = StrokeRows(), strokes_of()
    first = PixelClassifier(**DEFAULT._asdict()).fit(tokens, strokes, rows=rows)
    # The painted pixels, and some anywhere.
    assert asked[0] == np.count_nonzero(strokes)
    assert sum(asked[1:]) == 32 * 32
    asked.clear()
    more = strokes.copy()
    free = np.flatnonzero(more == 0)[:40]
    more.ravel()[free] = 2
    second = PixelClassifier(**DEFAULT._asdict()).fit(tokens, more, rows=rows, start=first)
    assert asked == [40]
    # Erased, and painted over by another class: nothing to compute.
    fewer = more.copy()
    fewer.ravel()[free[:20]] = 0
    fewer.ravel()[free[20:]] = 5
    third = PixelClassifier(**DEFAULT._asdict()).fit(tokens, fewer, rows=rows, start=second)
    assert len(asked) == 1
    for live, painted in ((second, more), (third, fewer)):
        anew = PixelClassifier(**DEFAULT._asdict()).fit(tokens, painted)
        np.testing.assert_allclose(
            live.predict_proba(tokens), anew.predict_proba(tokens), atol=0.02
        )


def test_rows_go_with_their_tokens(make_extractor):
    tokens = make_extractor(passes=1).extract(np.eye(30))
    rows = StrokeRows()
    rows.at(tokens, np.array([3, 40]))
    np.testing.assert_array_equal(
        rows.at(tokens, np.array([0, 3, 500])),
        rows_at(tokens, np.array([[0, 0], [0, 3], [16, 20]])),
    )
    assert len(rows._known) == 1
    del tokens
    gc.collect()
    assert len(rows._known) == 0


def test_a_start_that_does_not_fit_is_ignored(tokens, make_extractor):
    other = PixelClassifier().fit(tokens, strokes_of(2))
    model = PixelClassifier().fit(tokens, strokes_of(3), start=other)
    expected = PixelClassifier().fit(tokens, strokes_of(3))
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    model = PixelClassifier().fit(tokens, strokes_of(3), start=PixelClassifier())
    np.testing.assert_array_equal(model.coef_, expected.coef_)
