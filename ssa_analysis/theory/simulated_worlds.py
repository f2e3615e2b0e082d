"""A world with densities whose every expectation is known: a mixture on the circle, rotations with noise, a known extractor.

Images are angles. Class c is a von Mises law around ``centres[c]`` with concentration ``concentrations[c]``; a view turns an
image by an angle that is uniform in ``[-turn, turn]`` and adds a wrapped normal of standard deviation ``noise``; the extractor
wraps the circle around the sphere, once and twice,

    f(a) = (cos a, sin a, w cos 2a, w sin 2a) / sqrt(1 + w^2).

All densities are smooth and periodic, so that the trapezoidal rule converges faster than any power of the number of nodes:
on a grid of some hundred angles (:meth:`CircleWorld.on_grid`) sums are the integrals up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.theory.evidence import Evidence, Ideal
from ssa_analysis.theory.finite_worlds import FiniteWorld
from ssa_analysis.theory.rungs import LabelledLaw, class_weights, empirical_population


@dataclass(frozen=True)
class CircleWorld:
    """Angles in radians; ``prior``, ``centres``, ``concentrations`` have one entry a class."""

    prior: tuple[float, ...] = (0.5, 0.3, 0.2)
    centres: tuple[float, ...] = (0.0, 2.0, 4.0)
    concentrations: tuple[float, ...] = (4.0, 2.0, 3.0)
    turn: float = 0.5
    noise: float = 0.2
    winding: float = 0.7  # w

    def extract(self, angles: np.ndarray) -> Tensor:
        """``(n, 4)`` unit rows for ``(n,)`` angles."""
        once, twice = np.stack([np.cos(angles), np.sin(angles)]), np.stack([np.cos(2 * angles), np.sin(2 * angles)])
        return torch.from_numpy(np.concatenate([once, self.winding * twice]).T / math.sqrt(1 + self.winding**2))

    def on_grid(self, points: int) -> FiniteWorld:
        """The world on ``points`` angles, evenly spaced: its sums are integrals of the world by the trapezoidal rule."""
        angles = 2 * np.pi * np.arange(points) / points
        densities = np.exp(np.array(self.concentrations)[:, None] * (np.cos(angles - np.array(self.centres)[:, None]) - 1))
        # the law of a view's angle, from its Fourier coefficients
        k = np.arange(points // 2 + 1)
        coefficients = np.sinc(k * self.turn / np.pi) * np.exp(-((k * self.noise) ** 2) / 2)
        around = np.fft.irfft(coefficients, points).clip(0.0, None)
        kernel = around[(np.arange(points)[None] - np.arange(points)[:, None]) % points]
        return FiniteWorld(
            self.extract(angles),
            torch.tensor(self.prior, dtype=torch.float64),
            torch.from_numpy(densities / densities.sum(1, keepdims=True)),
            torch.from_numpy(kernel / kernel.sum(1, keepdims=True)),
        )

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """``count`` independent images, ``(angles, labels)``; classes in proportion to the prior, as in a stratified split."""
        sizes = np.floor(np.array(self.prior) * count).astype(int)
        sizes[0] += count - sizes.sum()
        labels = np.repeat(np.arange(len(sizes)), sizes)
        return rng.vonmises(np.array(self.centres)[labels], np.array(self.concentrations)[labels]), labels

    def view(self, angles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One view of each image."""
        return angles + rng.uniform(-self.turn, self.turn, len(angles)) + self.noise * rng.standard_normal(len(angles))

    def evidence(self, probe: int, held_out: int, tau: float, beta: float, negatives: int, seed: int) -> Evidence:
        """What :func:`ssa_analysis.theory.evidence.gather` would return for images of this world."""
        rng = np.random.default_rng(seed)
        bank, bank_labels = self.draw(probe, rng)
        images, labels = self.draw(held_out, rng)
        classes = torch.from_numpy(bank_labels)
        population = empirical_population(self.extract(bank), classes, len(self.prior))
        y = torch.from_numpy(labels)
        law = LabelledLaw(self.extract(images), y, class_weights(y, population.prior))
        first, second, views = (self.extract(self.view(a, rng)) for a in (images, images, bank))
        return Evidence(first, second, views, law.weights, tau, beta, negatives, Ideal(law, population, classes))
