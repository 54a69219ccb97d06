"""From a model folder to ONNX graphs that sherpa-onnx and `onnx_runtime` run, compared with PyTorch before they are
written."""

from zipasr.export.onnx import ExportReport, export_model

__all__ = ["ExportReport", "export_model"]
