"""What the commands of the command line do; manyeyes/cli.py only reads their arguments."""
