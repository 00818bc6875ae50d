"""Boards of every kind, and how to talk to them: one file per real thing."""
