"""Images: made, signed and brought to boards."""
