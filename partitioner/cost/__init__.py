"""What a stage costs on a board before there is a board: time, memory, energy; all modelled."""
