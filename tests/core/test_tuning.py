"""What to fit with, chosen by cross-validation over strokes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import Cancelled
from napari_hrdv2.core.strokes import Training, fitting
from napari_hrdv2.core.tuning import _FOLDS, CHOICES, DEFAULT, choose, stroke_folds

TOKENS, FILTERS, STROKES, PIXELS = 40, 10, 12, 20


def training_of(*, informative: str, seed: int = 0, strokes: int = STROKES) -> Training:
    """Two classes that one family of features tells apart; strokes differ, their pixels hardly."""
    rng = np.random.default_rng(seed)
    stroke = np.repeat(np.arange(2 * strokes), PIXELS)
    label = 1 + stroke % 2
    x = rng.normal(size=(2 * strokes, TOKENS + FILTERS))
    columns = slice(None, TOKENS) if informative == "tokens" else slice(TOKENS, None)
    x[:, columns] += np.where(np.arange(2 * strokes) % 2, 0.9, -0.9)[:, None] * (
        0.5 if informative == "tokens" else 1
    )
    features = (x[stroke] + rng.normal(0, 0.1, (len(stroke), x.shape[1]))).astype(np.float32)
    return Training(features, label, features, TOKENS, lambda: stroke, np.ones(FILTERS))


fitted = PixelClassifier()._fitted


def test_the_family_that_tells_the_classes_apart_is_emphasised() -> None:
    for_tokens = [choose(training_of(informative="tokens", seed=k), fitted) for k in range(5)]
    for_filters = [choose(training_of(informative="filters", seed=k), fitted) for k in range(5)]

    def filters_share(choices: list) -> float:
        return float(np.mean([np.log(c.C) for c in choices]))

    assert filters_share(for_filters) > filters_share(for_tokens) + 1


def test_all_choices_penalise_tokens_alike() -> None:
    assert CHOICES[0] == DEFAULT
    for choice in CHOICES:
        assert choice.C * choice.emphasis**2 == pytest.approx(0.003, rel=0.11)


def test_single_strokes_say_nothing() -> None:
    assert choose(training_of(informative="filters", strokes=1), fitted) == DEFAULT


def test_features_of_one_family_have_nothing_to_balance() -> None:
    some = training_of(informative="tokens")
    alone = Training(
        some.features[:, :TOKENS],
        some.labels,
        some.anywhere[:, :TOKENS],
        TOKENS,
        some.number,
    )
    assert choose(alone, fitted) == DEFAULT


def test_strokes_are_held_out_whole_and_never_all_of_a_class() -> None:
    some = training_of(informative="filters", strokes=5)
    lone = np.full(PIXELS, 2 * STROKES)
    x = np.zeros((PIXELS, TOKENS + FILTERS), np.float32)
    whole = Training(
        np.concatenate([some.features, x]),
        np.concatenate([some.labels, np.full(PIXELS, 3)]),
        some.anywhere,
        TOKENS,
        lambda: np.concatenate([some.strokes, lone]),
        np.ones(FILTERS),
    )
    folds = stroke_folds(whole)
    assert set(folds[whole.labels == 3]) == {-1}
    assert set(folds[whole.labels < 3]) == set(range(_FOLDS))
    for stroke in np.unique(whole.strokes):
        assert len(set(folds[whole.strokes == stroke])) == 1
    for fold in range(_FOLDS):
        assert set(whole.labels[folds != fold]) == {1, 2, 3}


def test_what_is_held_out_is_not_learnt_from() -> None:
    some, seen = training_of(informative="filters"), []

    def spying(training: Training, choice):
        seen.append(training)
        return fitted(training, choice)

    choose(some, spying)
    assert len(seen) == _FOLDS * len(CHOICES)
    for one in seen:
        held = np.setdiff1d(some.strokes, one.strokes)
        assert len(held) == 2 * STROKES / _FOLDS
        assert len(one.labels) == len(some.labels) - PIXELS * len(held)


def test_it_gives_up_when_told() -> None:
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        choose(training_of(informative="filters"), fitted, lambda: next(asked))


def test_given_parameters_are_kept(make_extractor) -> None:
    image = np.random.default_rng(0).random((42, 42))
    strokes = np.zeros((42, 42), int)
    strokes[2:4, 2:9], strokes[20:24, 4:9], strokes[2:9, 30:33], strokes[30:34, 30:33] = 1, 1, 2, 2
    tokens = make_extractor(passes=1, filters=True).extract(image)
    chosen = PixelClassifier().fit(tokens, strokes).choice_
    assert chosen in CHOICES
    given = PixelClassifier(C=0.5).fit(tokens, strokes)
    assert given.choice_ == (0.5, chosen.emphasis)
    # A further stroke goes on with what was chosen.
    strokes[10:12, 10:12] = 1
    other = next(c for c in CHOICES if c != chosen)
    start = PixelClassifier(**other._asdict()).fit(tokens, strokes)
    assert PixelClassifier().fit(tokens, strokes, start=start).choice_ == other


def test_rows_of_other_widths_fit() -> None:
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert fitting(rows, 5).tolist() == [[1, 2, 3, 0, 0], [4, 5, 6, 0, 0]]
    assert fitting(rows, 2).tolist() == [[1, 2], [4, 5]]
