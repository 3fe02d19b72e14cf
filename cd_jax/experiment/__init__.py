"""An experiment: the plan of its runs, how they are run, and how their arms compare."""
