"""How good a ranking is: metrics, slices, strong simple baselines, significance.  Arrays in, frozen results out."""
