"""What the user asks for: job files, the command line, and the run from plan to published image."""
