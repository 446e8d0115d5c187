"""braidrec: recommender systems from behaviour and meaning."""
