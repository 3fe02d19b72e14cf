"""Parameters in the formats of others: Hugging Face's, T5X's."""
