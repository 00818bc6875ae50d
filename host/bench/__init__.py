"""Sweeps: an experiment in one YAML file, its cells run one by one, a row for every inference."""
