"""The self-learning process: its rounds, training, evaluation."""
