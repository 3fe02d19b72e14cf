"""bAbI: the reader of the original files, and embedded worlds that speak the same language."""
