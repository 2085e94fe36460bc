"""Tokens on disk and in memory: damage, crashes, several processes, budgets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from napari_hrdv2.core import cache as cache_module
from napari_hrdv2.core import devices
from napari_hrdv2.core.cache import (
    CacheWarning,
    TokenMemory,
    TokenStore,
    default_folder,
    digest_of,
    pass_key,
)
from napari_hrdv2.core.errors import Cancelled
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.settings import Settings
from napari_hrdv2.core.tiles import Piece
from napari_hrdv2.core.tokens import Tokens
from napari_hrdv2.core.transforms import Transform

KEY = "ab" * 32


def tokens_of(seed: int = 0, shape: tuple[int, int, int] = (3, 4, 8)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).half()


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens", 10**6)


def test_what_is_saved_is_loaded(store):
    assert store.load(KEY) is None
    assert store.size == 0
    store.save(KEY, tokens_of().transpose(0, 1))
    torch.testing.assert_close(store.load(KEY), tokens_of().transpose(0, 1), rtol=0, atol=0)
    assert store.size == sum(path.stat().st_size for path in store.folder.iterdir()) > 0
    assert TokenStore(store.folder, 10**6).load(KEY) is not None
    model = store.folder / "model.safetensors"
    model.write_text("somebody's own")
    store.clear()
    assert (store.load(KEY), store.size) == (None, 0)
    assert model.exists()


def test_no_budget_switches_it_off(tmp_path):
    store = TokenStore(tmp_path / "tokens", 0)
    store.save(KEY, tokens_of())
    assert store.load(KEY) is None
    assert not store.folder.exists()


# --- damage


@given(st.data())
def test_a_flipped_bit_is_never_taken_for_tokens(data):
    content = bytearray(cache_module._encode(KEY, tokens_of()))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    found = cache_module._decode(KEY, bytes(content))
    assert found is None or torch.equal(found, tokens_of())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tokens at all",
        cache_module._encode(KEY, tokens_of())[:-1],
        cache_module._encode("cd" * 32, tokens_of()),
        save({"tokens": tokens_of()}),
        save({"tokens": tokens_of().float(), "checksum": torch.zeros(32, dtype=torch.uint8)}),
    ],
)
def test_a_damaged_file_is_told_and_removed(store, content):
    store.folder.mkdir()
    path = store._path(KEY)
    path.write_bytes(content)
    with pytest.warns(CacheWarning, match=f"{KEY}.*removed"):
        assert store.load(KEY) is None
    assert not path.exists()
    store.save(KEY, tokens_of())
    assert store.load(KEY) is not None


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = TokenStore(tmp_path / "file" / "tokens", 10**6)
    with pytest.warns(CacheWarning, match="preferences"):
        store.save(KEY, tokens_of())
    store.save(KEY, tokens_of())
    assert store.load(KEY) is None
    assert store.size == 0
    store.clear()


# --- budget


def test_what_was_not_used_for_longest_goes(tmp_path):
    size = len(cache_module._encode(KEY, tokens_of()))
    store = TokenStore(tmp_path, 4 * size)
    keys = [f"{k:064x}" for k in range(6)]
    for age, key in enumerate(keys[:4]):
        store.save(key, tokens_of())
        os.utime(store._path(key), (1000 + age, 1000 + age))
    assert store.load(keys[0]) is not None
    store.save(keys[4], tokens_of())
    there = [store.load(key) is not None for key in keys[:5]]
    assert there == [True, False, True, True, True]
    assert store.size <= store.budget
    store.save(KEY, tokens_of(shape=(30, 40, 8)))
    assert store.load(KEY) is None, "larger than all there is room for"
    assert store.load(keys[4]) is not None


def test_the_budget_holds_with_another_writer(tmp_path):
    size = len(cache_module._encode(KEY, tokens_of()))
    ours, theirs = (TokenStore(tmp_path, 64 * size) for _ in range(2))
    for k in range(200):
        (ours, theirs)[k % 2].save(f"{k:064x}", tokens_of())
    # Each may write a sixteenth between two looks.
    assert ours.size <= 64 * size * (1 + 1 / 16)


def test_what_killed_writers_left_is_swept(store):
    stale, fresh = store.folder / ".napari-hrdv2-old", store.folder / ".napari-hrdv2-new"
    for folder in (stale, fresh):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"half")
    os.utime(stale, (1000, 1000))
    store.save(KEY, tokens_of())
    assert not stale.exists()
    assert fresh.exists()


# --- crashes and several processes

_WRITER = """
import sys, torch
from napari_hrdv2.core.cache import TokenStore
store, first = TokenStore(sys.argv[1], 10**9), int(sys.argv[2])
for seed in range(first, first + 50):
    generator = torch.Generator().manual_seed(seed)
    store.save(f"{seed:064x}", torch.randn((20, 20, 64), generator=generator).half())
    print(seed, flush=True)
"""


def _writer(folder: Path, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(folder), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")
@pytest.mark.parametrize("writes", [0, 1, 17])
def test_killing_a_writer_loses_nothing_that_was_finished(tmp_path, writes):
    killed, other = _writer(tmp_path, 0), _writer(tmp_path, 25)
    assert killed.stdout is not None
    done = [int(killed.stdout.readline()) for _ in range(writes)]
    time.sleep(0.003)
    killed.send_signal(signal.SIGKILL)
    done += [int(line) for line in killed.communicate()[0].split()]
    done += [int(line) for line in other.communicate()[0].split()]
    assert other.returncode == 0
    store = TokenStore(tmp_path, 10**9)
    # Warnings are errors: whatever is there is whole.
    for seed in range(75):
        found = store.load(f"{seed:064x}")
        assert found is not None or seed not in done
        if found is not None:
            assert torch.equal(found, tokens_of(seed, (20, 20, 64)))


# --- keys


def resolved(**changes: Any) -> Settings:
    return Settings(**({"patch": 14, "stride": 14, "weights_sha256": "ff"} | changes))


# For every setting another value, and whether it changes the tokens of a pass.
_CHANGES = {
    "model": ("other", False),
    "weights_sha256": ("ee", True),
    "patch": (16, True),
    "stride": (7, True),
    "depth": (0.5, True),
    "facet": (("k", 1), True),
    "scale": (2.0, True),
    # Of a pass its own only: see below.
    "zooms": ((2.0,), False),
    "window": (256, True),
    # Only the pixels handed over matter, and whether they are channels: see below.
    "channel_count": (5, False),
    "colours": ("mapped", False),
    "filters": (False, False),
    "passes": (16, False),
    "shifts": ("moore", False),
    "distances": ((2,), False),
    "flips": (True, False),
    "rotations": (True, False),
    "move_positions": (False, False),
    "boundary": ("periodic", True),
    "kernel": ("nearest", False),
    "percentiles": ((0.0, 100.0), True),
    "channels": ((0, 1), True),
}


def test_every_setting_that_changes_the_tokens_changes_the_key():
    assert set(_CHANGES) == set(Settings.model_fields), "decide what the new setting changes"
    plain = pass_key("d", resolved(), Transform(), (0, 0), 1.0)
    for name, (value, matters) in _CHANGES.items():
        other = pass_key("d", resolved(**{name: value}), Transform(), (0, 0), 1.0)
        assert (other != plain) == matters, name
    assert pass_key("e", resolved(), Transform(), (0, 0), 1.0) != plain
    assert pass_key("d", resolved(), Transform.shifted(0, 1), (0, 0), 1.0) != plain
    assert pass_key("d", resolved(), Transform.flipped(vertical=True), (0, 0), 1.0) != plain
    assert pass_key("d", resolved(), Transform(), (0, 0.5), 1.0) != plain
    assert pass_key("d", resolved(), Transform(), (0, 0), 0.5) != plain


def test_keys_of_channels_go_by_the_pixels_and_what_the_backbone_sees_of_them():
    def key(**changes: Any) -> str:
        return pass_key("d", resolved(**changes), Transform(), (0, 0), 1.0)

    plain = key(channels=(0, 1))
    assert key(channels=(3, 1), channel_count=4) == plain
    assert key(channels=(0, 1), colours="mapped") not in (plain, key(), key(colours="mapped"))


def test_keys_tell_facets_apart_and_tokens_keep_theirs():
    kinds = [("k", 1), ("k", 0), ("q", 1), ("v", 1), ("attention", 1), None]
    keys = [pass_key("d", resolved(facet=one), Transform(), (0, 0), 1.0) for one in kinds]
    assert len(set(keys)) == len(kinds)
    # What was on disk before there were facets is found.
    assert keys[-1] == "99197ce7ac4fdb0694b7ee7aacd7f25bdc6345a0ccbd6119a54301e7e9777d0c"


def test_the_digest_is_of_pixels_shape_and_dtype():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    plain = digest_of(image)
    assert digest_of(image.copy(order="F")) == plain
    for other in (image.reshape(4, 3), image.astype(np.int8), image.astype(np.uint16), image + 1):
        assert digest_of(other) != plain


def test_the_default_folder_lies_beside_the_weights(empty_cache):
    assert default_folder().parent == empty_cache.parent
    assert default_folder() != empty_cache


# --- with the extractor


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.normal(size=(40, 60))


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many images went through the backbone, batch by batch."""
    forward, batches = FeatureExtractor._forward, []

    def counting(self, images, *how):
        batches.append(len(images))
        return forward(self, images, *how)

    monkeypatch.setattr(FeatureExtractor, "_forward", counting)
    return batches


def test_passes_made_before_are_not_computed(make_extractor, image, store, computed):
    few = make_extractor(passes=2, precision="auto").extract(image, store=store)
    assert sum(computed) == 2
    extractor = make_extractor(passes=5, precision="auto")
    more = extractor.extract(image, store=store)
    assert sum(computed) == 5
    assert torch.equal(more.data[:2], few.data)
    again = [t.passes for t in extractor.passes(Piece(image), store=store)]
    assert again == [1, 2, 3, 4, 5]
    assert sum(computed) == 5
    assert torch.equal(extractor.extract(image, store=store).data, more.data)
    torch.testing.assert_close(
        more.data.float(), make_extractor(passes=5).extract(image).data, atol=0.01, rtol=0.01
    )
    extractor.extract(image + np.eye(40, 60), store=store)
    assert sum(computed) == 15


def test_the_first_pass_is_the_same_wherever_the_others_move_positions(
    make_extractor, image, store, computed
):
    moving = make_extractor(passes=2, precision="auto").extract(image, store=store)
    plain = make_extractor(passes=2, precision="auto", move_positions=False)
    still = plain.extract(image, store=store)
    assert sum(computed) == 3
    assert torch.equal(still.data[0], moving.data[0])
    assert not torch.allclose(still.data[1], moving.data[1], atol=0.1)


def test_a_lost_pass_is_computed_again(make_extractor, image, store, computed):
    extractor = make_extractor(passes=4, precision="auto")
    expected = extractor.extract(image, store=store)
    settings = extractor.settings
    key = pass_key(
        digest_of(image), settings, settings.transforms()[1], settings.position_moves()[1], 1.0
    )
    store._path(key).write_bytes(b"damaged")
    computed.clear()
    with pytest.warns(CacheWarning):
        found = extractor.extract(image, store=store)
    assert sum(computed) >= 1
    torch.testing.assert_close(found.data, expected.data, atol=0.01, rtol=0.01)
    # Tokens of another shape under the right name are none of this image.
    store.save(key, tokens_of())
    torch.testing.assert_close(
        extractor.extract(image, store=store).data, expected.data, atol=0.01, rtol=0.01
    )


def test_single_precision_leaves_the_store_alone(make_extractor, image, store):
    make_extractor(precision="float32").extract(image, store=store)
    assert store.size == 0


def test_cancelling_ends_within_a_pass_and_keeps_what_was_done(
    make_extractor, image, store, monkeypatch
):
    monkeypatch.setattr(devices, "batch_size", lambda *args: 1)
    asked = []

    def is_cancelled() -> bool:
        asked.append(1)
        # Before every pass and each of its two blocks: within the third pass.
        return len(asked) > 7

    extractor = make_extractor(passes=4, precision="auto")
    passes = extractor.passes(image, store=store, is_cancelled=is_cancelled)
    assert [next(passes).passes, next(passes).passes] == [1, 2]
    with pytest.raises(Cancelled):
        next(passes)
    assert len(list(store.folder.iterdir())) == 2


# --- memory


def test_memory_keeps_what_was_used_last():
    def some(passes: int) -> Tokens:
        data = torch.zeros((passes, 2, 2, 5), dtype=torch.float16)
        return Tokens(data, (), (1, 1), resolved(passes=passes))

    memory = TokenMemory(3 * 40)
    first, second = some(1), some(2)
    memory.put("a", first)
    memory.put("b", second)
    assert memory.get("a", first.settings) is first
    assert memory.get("a", second.settings) is None
    memory.put("c", first)
    assert memory.get("b", second.settings) is None
    assert memory.get("a", first.settings) is first
    memory.clear()
    assert memory.get("a", first.settings) is None
    large = some(100)
    memory.put("d", large)
    assert memory.get("d", large.settings) is large
    assert memory.get("a", first.settings) is None
