"""Trees against scikit-learn on dense features; blocks; files; the choice of a classifier."""

from __future__ import annotations

import json
import os
import warnings
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.tree import DecisionTreeClassifier

from napari_hrdv2.core import trees
from napari_hrdv2.core.base import FORMAT_VERSION, PixelClass, default_class
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import (
    Cancelled,
    HRDv2Error,
    ModelError,
    ModelWarning,
    SettingsMismatchError,
    StrokesError,
)
from napari_hrdv2.core.methods import METHODS, load_classifier, make_classifier
from napari_hrdv2.core.segment import segment
from napari_hrdv2.core.strokes import StrokeRows
from napari_hrdv2.core.trees import TreesClassifier
from napari_hrdv2.core.upsample import dense_map

from .test_classifier import SHAPE, image_of, strokes_of

KINDS = ["forest", "boosting"]


@pytest.fixture(scope="module")
def tokens(make_extractor):
    return make_extractor(passes=2).extract(image_of())


@pytest.fixture(scope="module")
def fitted(tokens):
    five = PixelClass(label=5, name="größeres Korn", colour=(0.1, 0.2, 0.3, 1.0))
    return {
        kind: TreesClassifier(kind, trees=7).fit(tokens, strokes_of(), [five]) for kind in KINDS
    }


@pytest.fixture(params=KINDS)
def model(request, fitted):
    return fitted[request.param]


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


# --- fit and prediction


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_scikit_learn_on_dense_features(tokens, kind, classes):
    strokes, dense = strokes_of(classes), dense_map(tokens)
    y = strokes[strokes > 0]
    weights = np.array([(y == k).sum() ** -0.5 for k in y])
    weights /= weights.mean()
    if kind == "forest":
        naive = RandomForestClassifier(9, min_samples_leaf=2, random_state=0)
    else:
        naive = HistGradientBoostingClassifier(
            max_iter=9,
            max_leaf_nodes=8,
            min_samples_leaf=2,
            max_features=0.1,
            max_bins=32,
            early_stopping=False,
            random_state=0,
        )
    # Rows of the model's own rounding, so that both see the same bins.
    naive.fit(StrokeRows().at(tokens, np.flatnonzero(strokes)), y, weights)
    model = TreesClassifier(kind, trees=9, min_leaf=2).fit(tokens, strokes)
    expected = naive.predict_proba(dense.reshape(-1, 128)).reshape(*SHAPE, classes)
    found = model.predict_proba(tokens)
    assert found.dtype == np.float32
    is_close = np.isclose(found, expected, atol=1e-4).all(-1)
    # The map's rounding sends a pixel down another branch now and then.
    assert is_close.mean() > 0.98
    labels = model.predict(tokens)
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) == set(np.unique(y))
    np.testing.assert_array_equal(labels, model.labels_of(found))
    best = np.unique(y)[expected.argmax(-1)]
    assert (labels == best)[is_close].mean() > 0.98
    assert (labels == strokes)[strokes > 0].mean() > 0.95


def test_results_repeat(model, tokens):
    again = clone(model).fit(tokens, strokes_of())
    np.testing.assert_array_equal(again.predict_proba(tokens), model.predict_proba(tokens))


@pytest.mark.parametrize("block", [1000, 640, 51])
def test_blocks_make_no_difference_and_are_no_larger(model, tokens, monkeypatch, block):
    whole = model.predict_proba(tokens)
    assert SHAPE[0] * SHAPE[1] < trees.BLOCK
    asked, rows_at = [], trees.rows_at

    def counting(tokens, pixels):
        asked.append(len(pixels))
        return rows_at(tokens, pixels)

    monkeypatch.setattr(trees, "rows_at", counting)
    monkeypatch.setattr(trees, "BLOCK", block)
    monkeypatch.setattr(trees, "_CHUNK", 100)
    np.testing.assert_array_equal(model.predict_proba(tokens), whole)
    assert (max(asked), sum(asked)) == (block, SHAPE[0] * SHAPE[1])


@pytest.mark.parametrize("is_first_grey", [True, False])
def test_grey_and_colour_images_share_a_model(make_extractor, is_first_grey):
    extractor = make_extractor(passes=1, filters=True)
    grey = np.repeat(image_of()[..., None], 3, 2)
    colour = grey * (1, 0.5, 0.2)
    images = [extractor.extract(one) for one in (grey, colour)]
    assert images[0].channels < images[1].channels
    trained, other = images if is_first_grey else images[::-1]
    for kind in KINDS:
        model = TreesClassifier(kind, trees=7).fit(trained, strokes_of())
        labels = model.predict(other)
        assert labels.shape == SHAPE
        assert (labels == strokes_of())[strokes_of() > 0].mean() > 0.6


def test_threads_leave_no_filters_of_warnings_behind(model, tokens, monkeypatch):
    monkeypatch.setattr(trees, "_CHUNK", 20)
    monkeypatch.setattr(trees.joblib, "cpu_count", lambda: 8)
    before = list(warnings.filters)
    whole = model.predict_proba(tokens)
    assert list(warnings.filters) == before
    np.testing.assert_array_equal(model.predict_proba(tokens), whole)


def test_gives_up_between_blocks(model, tokens, monkeypatch):
    monkeypatch.setattr(trees, "BLOCK", 100)
    for act in (model.predict, model.predict_proba):
        answers = iter([False, False, True])
        with pytest.raises(Cancelled):
            act(tokens, lambda answers=answers: next(answers))
        assert next(answers, None) is None


def test_what_all_classifiers_refuse(fitted, tokens, make_extractor):
    other = make_extractor(passes=1).extract(image_of())
    for act in (fitted["forest"].predict, fitted["forest"].predict_proba):
        with pytest.raises(SettingsMismatchError, match="passes 2 against 1"):
            act(other)
    with pytest.raises(StrokesError, match="only class 2"):
        TreesClassifier().fit(tokens, np.where(strokes_of() == 2, 2, 0))
    with pytest.raises(ModelError, match="'forest' or 'boosting', not 'logistic'"):
        TreesClassifier("logistic").fit(tokens, strokes_of())
    with pytest.raises(NotFittedError):
        TreesClassifier().predict(tokens)


def test_a_start_of_another_kind_is_ignored(fitted, tokens):
    linear = PixelClassifier().fit(tokens, strokes_of())
    found = clone(fitted["forest"]).fit(tokens, strokes_of(), start=linear)
    np.testing.assert_array_equal(found.predict(tokens), fitted["forest"].predict(tokens))
    again = PixelClassifier().fit(tokens, strokes_of(), start=fitted["forest"])
    np.testing.assert_array_equal(again.coef_, linear.coef_)


def test_a_few_painted_pixels_are_enough(tokens):
    strokes = np.zeros(SHAPE, np.uint8)
    strokes[5, 3:9], strokes[35, 3:9] = 1, 2
    for kind in KINDS:
        labels = TreesClassifier(kind).fit(tokens, strokes).predict(tokens)
        assert (labels == strokes)[strokes > 0].all()


# --- files


def test_saved_model_predicts_the_same_after_loading(model, path, tokens):
    for back in (TreesClassifier.load(path), load_classifier(path)):
        np.testing.assert_array_equal(back.predict_proba(tokens), model.predict_proba(tokens))
        np.testing.assert_array_equal(back.predict(tokens), model.predict(tokens))
        assert back.get_params() == model.get_params()
        assert back.pixel_classes_ == model.pixel_classes_
        assert [c.name for c in back.pixel_classes_][1] == "größeres Korn"
        assert back.settings_ == model.settings_
        assert back.n_features_in_ == 128
    assert list(path.parent.iterdir()) == [path]


def test_the_content_says_which_kind_a_file_is(model, tokens, tmp_path):
    linear = PixelClassifier().fit(tokens, strokes_of())
    linear.save(tmp_path / "a.skops")
    model.save(tmp_path / "b.safetensors")
    assert isinstance(load_classifier(tmp_path / "a.skops"), PixelClassifier)
    assert isinstance(load_classifier(tmp_path / "b.safetensors"), TreesClassifier)
    with pytest.raises(ModelError, match="there is no model"):
        load_classifier(tmp_path / "c.skops")
    with pytest.raises(ModelError, match="there is no model"):
        load_classifier(tmp_path)


class Stranger:
    """A type that no model consists of."""

    loaded = False

    def __setstate__(self, state):
        Stranger.loaded = True


def rewritten(path, *, member=None, content=None, estimator=None, **fields):
    """The model's file with a member, its header's fields or its estimator replaced."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = members.pop("napari-hrdv2.json")
    if estimator is not None:
        skops.io.dump(estimator, path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    members["napari-hrdv2.json"] = json.dumps(json.loads(header) | fields).encode()
    if member is not None:
        members.pop(member)
        if content is not None:
            members[member] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_types_that_are_not_trusted_are_refused_unloaded(model, path):
    smuggled = clone(model.estimator_).set_params(**model.estimator_.get_params())
    smuggled.__dict__.update(model.estimator_.__dict__, extra=Stranger())
    rewritten(path, estimator=smuggled)
    with pytest.raises(ModelError, match=r"types that are not trusted .*Stranger") as caught:
        load_classifier(path)
    assert "\n" not in str(caught.value)
    assert not Stranger.loaded


def test_trees_that_lead_nowhere_are_refused(fitted, tmp_path):
    """What scikit-learn would follow into memory that is not its own."""
    for kind in KINDS:
        for column, value in (("left", 10**6), ("left", 0), ("right", 10**6), ("feature", 10**6)):
            path = tmp_path / "model"
            fitted[kind].save(path)
            bad = load_classifier(path)
            if kind == "forest":
                tree = bad.estimator_.estimators_[0].tree_
                name = column if column == "feature" else f"children_{column}"
                getattr(tree, name)[0] = value
            else:
                nodes = bad.estimator_._predictors[0][0].nodes
                nodes["feature_idx" if column == "feature" else column][0] = value
            bad.save(path)
            with pytest.raises(ModelError, match="damaged"):
                load_classifier(path)


@pytest.mark.parametrize("version", ["0.1.2", "99.0.0"])
def test_another_scikit_learn_warns_and_what_it_cannot_read_says_which(path, tokens, version):
    rewritten(path, scikit_learn=version)
    with pytest.warns(ModelWarning, match=f"made with scikit-learn {version}, this is"):
        back = load_classifier(path)
    assert back.predict(tokens).shape == SHAPE
    rewritten(path, scikit_learn=version, member="schema.json", content=b"{}")
    with pytest.raises(ModelError, match=f"made with scikit-learn {version} and cannot be used"):
        load_classifier(path)


def test_another_patch_of_scikit_learn_is_the_same(path):
    rewritten(path, scikit_learn=".".join([*trees._minor(trees.sklearn.__version__), "77"]))
    load_classifier(path)


def test_model_of_a_later_version_says_to_update(path):
    rewritten(path, version=FORMAT_VERSION + 1)
    with pytest.raises(ModelError, match=rf"format {FORMAT_VERSION + 1}.*update"):
        load_classifier(path)


DAMAGES = {
    "cut at the end": lambda p: p.write_bytes(p.read_bytes()[:-5]),
    "cut at the start": lambda p: p.write_bytes(p.read_bytes()[:40]),
    "other bytes within": lambda p: p.write_bytes(
        p.read_bytes()[:3000] + b"\0" * 2000 + p.read_bytes()[5000:]
    ),
    "no header": lambda p: rewritten(p, member="napari-hrdv2.json"),
    "header no JSON": lambda p: rewritten(p, member="napari-hrdv2.json", content=b"{"),
    "header a list": lambda p: rewritten(p, member="napari-hrdv2.json", content=b"[1]"),
    "no skops": lambda p: rewritten(p, member="schema.json"),
    "schema no JSON": lambda p: rewritten(p, member="schema.json", content=b"{"),
    "unknown parameter": lambda p: rewritten(p, params={"depth": 3}),
    "unknown method": lambda p: rewritten(p, params={"method": "logistic"}),
    "fewer classes": lambda p: rewritten(
        p, classes=[default_class(k).model_dump() for k in (1, 2)]
    ),
    "another estimator": lambda p: rewritten(
        p, estimator=DecisionTreeClassifier().fit(np.eye(3, 128), [0, 1, 2])
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_foreign_file_is_a_one_line_error(path, damage):
    DAMAGES[damage](path)
    with pytest.raises(ModelError) as caught:
        load_classifier(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_failure_midway_leaves_the_old_model(model, path, monkeypatch):
    before = path.read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="disk is full"):
        model.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


# --- the choice


def test_every_method_makes_its_classifier_and_none_else_does():
    for name in METHODS:
        assert make_classifier(name).method == name
    with pytest.raises(HRDv2Error, match="no classifier 'svm': choose one of logistic, ridge, for"):
        make_classifier("svm")


@pytest.mark.parametrize("name", METHODS)
def test_segment_takes_any(tokens, make_extractor, name):
    expected = make_classifier(name).fit(tokens, strokes_of()).predict(tokens)
    found = segment(image_of(), strokes_of(), extractor=make_extractor(passes=2), classifier=name)
    np.testing.assert_array_equal(found, expected)
