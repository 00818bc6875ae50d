"""Everything that talks to boards and measures them, and the command `tinysplit`."""
