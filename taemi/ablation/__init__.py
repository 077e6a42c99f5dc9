"""The paper's ablation tables: their rows, how these are trained, and the table that comes of it."""
