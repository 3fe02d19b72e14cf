"""What `cd_jax tasks` prints and writes."""
