"""What runs on the host: talks to boards, measures them and reports."""
