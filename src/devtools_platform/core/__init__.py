"""The vocabulary every part shares. Pure data and rules, no I/O; below everything else."""
