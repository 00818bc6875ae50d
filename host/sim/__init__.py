"""The deterministic simulator: firmware/core in simulated time, on modelled links."""
