"""Training: `loop.Trainer` runs what a recipe (`recipes.load_config`) describes."""
