"""Click-through-rate ranking: a backbone behind any pattern sources."""
