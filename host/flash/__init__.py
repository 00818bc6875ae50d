"""The whole flash of a real board: a firmware's build, its settings, and a stage, over a wire."""
