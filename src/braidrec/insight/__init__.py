"""What two spaces of item vectors agree on, as numbers and plots.  Arrays in, frozen results and PNG files out."""
