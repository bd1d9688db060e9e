"""Engines turn prompts into streams of tokens; see `interface.Engine` for what they have in common."""
