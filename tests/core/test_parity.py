"""The backbone with real weights against the file that they came in, run by onnxruntime."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from skimage import data, transform

from napari_hrdv2.core import weights as weights_module
from napari_hrdv2.core.weights import load_vit

_BACKBONE_OUTPUT = "/backbone/layernorm/Add_1_output_0"


def test_tokens_equal_those_of_the_onnx_file(real_weights, real_wheel):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    with zipfile.ZipFile(real_wheel) as archive:
        model = onnx.load_model_from_string(archive.read(weights_module._ONNX_IN_WHEEL))
    model.graph.output.append(onnx.ValueInfoProto(name=_BACKBONE_OUTPUT))
    image = transform.resize(data.astronaut(), (224, 224), anti_aliasing=True)
    normalised = (image - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    batch = np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run([_BACKBONE_OUTPUT], {session.get_inputs()[0].name: batch})
    found = load_vit(real_weights)(torch.from_numpy(batch)).flatten(1, 2).numpy()
    assert expected.shape == (1, 257, 384)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected[:, 1:], atol=1e-3)
