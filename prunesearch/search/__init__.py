"""From a model, data, device and budget to a front: spaces, sensitivities, seeds, samplers, and `run`."""
