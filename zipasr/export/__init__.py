"""Export of a model folder to ONNX graphs, which sherpa-onnx and `onnx_runtime` run; graphs are compared with PyTorch before
they are written."""

from zipasr.export.onnx import ExportReport, export_model
from zipasr.export.quantize import HeadQuantization, Measured, QuantizationReport, export_int8

__all__ = ["ExportReport", "HeadQuantization", "Measured", "QuantizationReport", "export_int8", "export_model"]
