"""The whole store, simulated: one seed is one history, checked against a sequential model and replayed exactly."""
