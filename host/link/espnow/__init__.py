"""ESP-NOW between virtual boards: exact frames on a modelled medium."""
