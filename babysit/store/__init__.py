"""How a run lies on disk. NumPy and SQLite."""
