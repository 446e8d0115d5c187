"""Speed marks: what is timed, measurements in processes of their own, and the table of ratios."""
