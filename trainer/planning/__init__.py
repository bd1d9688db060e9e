"""What a run will take, found by computing one step of it on tensors without data."""
