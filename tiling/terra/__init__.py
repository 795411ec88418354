"""Aerial scenes that never were: any box of a scene of any size, computed alone, from a seed."""
