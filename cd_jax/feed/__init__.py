"""From examples to what a step reads."""
