"""Replays noise schedules: betas, respacing, jumps and time travel."""

import re

from tileloom.models.schedule import Schedule, betas, jump_times, respace, space_timesteps

TABLES = {
    "betas": "betas",
    "alphas_cumprod": "abar",
    "posterior_variance": "posterior_variance",
    "posterior_log_variance_clipped": "posterior_log_variance_clipped",
    "posterior_mean_coef1": "posterior_mean_coef1",
    "posterior_mean_coef2": "posterior_mean_coef2",
    "sqrt_recip_alphas_cumprod": "sqrt_recip_abar",
    "sqrt_recipm1_alphas_cumprod": "sqrt_recipm1_abar",
}
TABLE = 1e-12


def chain(steps, timesteps, times=None):
    """A schedule of given betas."""
    return Schedule(steps, tuple(timesteps), times or jump_times(len(steps)))


def replay(golden):
    """The file schedules, or any of its form."""
    for name in golden:
        if match := re.fullmatch(r"(betas|alphas_cumprod)_(linear|cosine)_(\d+)", name):
            steps = betas(match[2], int(match[3]))
            ours = getattr(chain(steps, range(len(steps))), TABLES[match[1]])
            yield golden.relative(name, ours, TABLE)
    for key, (total, spec) in golden.config.get("respace", {}).items():
        yield from _respaced(golden, key, total, spec)
    for key, facts in golden.config.get("jumps", {}).items():
        yield from _jumps(golden, key, dict(facts))
    for key, facts in golden.config.get("travel", {}).items():
        total = facts["T_sampling"]
        times = jump_times(total, jump_length=facts["travel_length"], jump_n_sample=facts["travel_repeat"])
        yield golden.exact(key, times)
        yield golden.count(key, facts, chain(betas("linear", total), range(total), times))


def _respaced(golden, key, total, spec):
    kept = space_timesteps(total, spec)
    yield golden.exact(f"{key}_map", kept)
    tables = chain(respace(betas("linear", total), kept), kept)
    for name, ours in TABLES.items():
        if f"{key}_{name}" in golden:
            yield golden.relative(f"{key}_{name}", getattr(tables, ours), TABLE)


def _jumps(golden, key, facts):
    counts = {name: facts.pop(name) for name in list(facts) if name.startswith("n_") and name != "n_sample"}
    total = facts.pop("t_T")
    times = jump_times(total, **facts)
    yield golden.exact(key, times)
    yield golden.count(key, counts, chain(betas("linear", total), range(total), times))
