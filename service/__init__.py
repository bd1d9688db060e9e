"""The REST inference service: HTTP in, text out, over the model package in `shared`."""
