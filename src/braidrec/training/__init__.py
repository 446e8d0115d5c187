"""The loop: phases, optimiser groups, checkpoints that resume exactly, early stop.  It knows nothing of any task."""
