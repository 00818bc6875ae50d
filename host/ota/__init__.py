"""Images, brought to running boards."""
