"""OpenAI's API as its clients know it, one file per resource, over the same code as the native routes."""
