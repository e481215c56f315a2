"""The TFaaS protocol and the Open Inference Protocol."""
