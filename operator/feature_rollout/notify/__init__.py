"""Telling people and other systems of transitions; it knows of the database only what `ports` says."""
