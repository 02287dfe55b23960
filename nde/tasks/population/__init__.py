"""Individuals of one equation, with parameters that vary between them: `task = "population"`."""

from nde.tasks.population.task import PopulationTask as PopulationTask
