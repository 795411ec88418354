"""How one tile is restored: schedules, noise, operators, denoisers, solvers and the engine."""
