"""Train on Lightning Fabric: configurations, the loop, journals, checkpoints, and comparisons of two arms."""
