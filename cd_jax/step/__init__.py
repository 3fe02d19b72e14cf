"""What happens inside the compiled step."""
