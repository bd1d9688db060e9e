"""What the trainer and the service must agree on: configuration, prompt, model, checkpoint, media."""
