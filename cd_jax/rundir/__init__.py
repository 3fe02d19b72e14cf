"""What stands in a model_dir: files read with care and written whole, the lock, and how an interruption is told."""
