"""Memory policy: stores (context embedding, update), retrieves updates by several queries."""
