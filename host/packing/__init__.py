"""A stage as a signed image for a board's slot: key pairs, packing."""
