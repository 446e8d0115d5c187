"""One paper per file: what joins behaviour and meaning in a sequence model."""
