"""The client's side of the Open Inference Protocol: requests, inputs and outputs, Triton's model repository."""
