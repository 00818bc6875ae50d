"""Commands of `tinysplit` that belong to no single room."""
