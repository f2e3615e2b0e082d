"""Figures, tables and the self-contained report page; matplotlib is used here and nowhere else."""
