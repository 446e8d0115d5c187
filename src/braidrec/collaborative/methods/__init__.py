"""One paper per file: what joins behaviour and meaning on a graph of users and items, whatever the backbone."""
