"""An equation of your own, for configs/own_equation.toml: hares are eaten by lynx that can only eat so many."""

STATES = ("hare", "lynx")


def field(t, y, p):
    """The rates of the states `y` at the time `t`, by the parameters `p` of the config."""
    hare, lynx = y
    eaten = p.attack * hare * lynx / (1 + p.attack * p.handling * hare)
    return [p.growth * hare - eaten, p.conversion * eaten - p.death * lynx]


def observe(t, y, p):
    """What is expected of each channel: pelts, a share of the animals."""
    return {"hare": p.trapped * y[0], "lynx": p.trapped * y[1]}
