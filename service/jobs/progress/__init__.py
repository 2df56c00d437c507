"""What is known of a job from outside: its events, and how far it is by its commits."""
