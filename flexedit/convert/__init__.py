"""Other people's weights → a model folder."""
