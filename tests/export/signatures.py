"""What an ONNX graph declares: types, inputs, outputs and metadata."""

import onnx

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def signature(values: object) -> list[tuple[str, int, list[str | int]]]:
    """Name, type and axes of inputs or outputs."""
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values  # type: ignore[attr-defined]
    ]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a graph, by key."""
    return {entry.key: entry.value for entry in model.metadata_props}
