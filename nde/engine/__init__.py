"""The solver layer: [`diffeqsolve`][nde.engine.diffeqsolve] is the one door through which every model is solved."""

from nde.engine.solve import diffeqsolve as diffeqsolve
