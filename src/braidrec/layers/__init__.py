"""Building blocks shared by the tasks: embeddings, MLPs, attention, crosses."""
