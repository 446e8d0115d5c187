"""Next-item recommendation: an encoder of item vectors behind any item maps."""
