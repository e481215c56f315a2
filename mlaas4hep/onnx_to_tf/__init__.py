"""Conversion of ONNX graphs to TensorFlow SavedModels, op by op."""
