"""Update policies, one file each: what writes updates in a round (see `update.policy`)."""
