"""One compartment with absorption, clearance and volume in proportion to weight, for configs/theophylline.toml."""

STATES = ("gut", "central")


def field(t, y, p):
    """The rates of the amounts `y`, in mg, by the parameters `p` and the weight of the subject."""
    gut, central = y
    absorbed = p.ka * gut
    return [-absorbed, absorbed - p.cl / p.v * central]  # of both, the weight cancels in the rate of elimination


def observe(t, y, p):
    """The concentration in mg/l: the amount over the volume of distribution."""
    return {"conc_mg_per_L": y[1] / (p.v * p.weight_kg)}
