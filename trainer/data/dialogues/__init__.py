"""Dialogues about photographs made by rules from human captions and object boxes, and plain-text ones."""
