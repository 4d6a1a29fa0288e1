"""The mathematics: pure functions of tensors, no networks, no I/O."""
