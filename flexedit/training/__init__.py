"""Training: the same stages as an edit, each loss beside the prediction it scores."""
