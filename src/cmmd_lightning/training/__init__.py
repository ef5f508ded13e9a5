"""Lightning modules, data module and callbacks of training."""
