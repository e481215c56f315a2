"""The image classifier: from a folder of labelled images to a trained residual network."""
