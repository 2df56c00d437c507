"""Taking a job from its manifest to published labels, and stopping it where it is hopeless or not wanted."""
