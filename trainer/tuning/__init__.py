"""Hyper-parameter search: its settings, its space, one trial, and what came out."""
