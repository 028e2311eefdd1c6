"""From a method and the training data to where gradients are stored and how they are preconditioned."""
