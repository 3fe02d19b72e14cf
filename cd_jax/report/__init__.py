"""What a run or an experiment found: merged results, a text table, plots and a self-contained HTML page."""
