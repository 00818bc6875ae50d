"""The tail as a service: one process answers many heads, with engines in processes beside it."""
