"""Keras and TensorFlow models: checks of their content, and loading and running them in a model process."""
