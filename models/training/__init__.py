"""Training: crops in, weights out, and nothing lost on the way."""
