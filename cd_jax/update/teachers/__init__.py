"""Teachers: who explains."""
