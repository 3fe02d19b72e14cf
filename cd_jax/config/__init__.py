"""Configuration: gin files, their macros, the values that may be bound."""
