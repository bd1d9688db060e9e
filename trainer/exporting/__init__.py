"""The formats that `export` writes."""
