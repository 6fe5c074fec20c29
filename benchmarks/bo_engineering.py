"""Fifteen constrained problems for Bayesian optimisation, to be minimised; feasible where no constraint exceeds 0.

The suite is that of [1]_, whose problems come from the design literature [2]_ [3]_ [4]_; formulae are written down anew, and
checked against optima found by multi-start SLSQP. Where the suite's code departs from the source of a problem, both stand
here: "as coded" for comparison with its tables, "corrected" for use.

References
----------
.. [1] R. Yu, C. Picard, F. Ahmed, "Fast and accurate Bayesian optimization with pre-trained transformers for constrained
   engineering problems", Structural and Multidisciplinary Optimization 68:66, 2025.
.. [2] A. H. Gandomi, X.-S. Yang, A. H. Alavi, "Mixed variable structural optimization using firefly algorithm",
   Computers & Structures 89, 2011.
.. [3] X.-S. Yang, A. H. Gandomi, "Bat algorithm: a novel approach for global engineering optimization", Engineering
   Computations 29(5), 2012.
.. [4] W. Hock, K. Schittkowski, "Test Examples for Nonlinear Programming Codes", 1981, problem 106 (heat exchanger).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Outcome = tuple[Array, Sequence[Array]]                             # objective (n,) and each constraint (n,)
Formula = Callable[..., Outcome]                                    # of the parameters x1, x2, …, each (n,)
SQRT2 = np.sqrt(2)


def jlh1(x1: Array, x2: Array) -> Outcome:
    return (x1 - 0.5) ** 2 + (x2 - 0.5) ** 2, [x1 + x2 - 0.75]


def jlh2(x1: Array, x2: Array) -> Outcome:
    return np.cos(2 * x1) * np.cos(x2) + np.sin(x1), [(x1 + 5) ** 2 / 4 + x2**2 / 100 - 2.5]


def gkxwc1(x1: Array, x2: Array) -> Outcome:
    return np.cos(2 * x1) * np.cos(x2) + np.sin(x1), [np.cos(x1 + x2) - 0.5]


def gkxwc2(x1: Array, x2: Array) -> Outcome:
    return np.sin(x1) + x2, [np.sin(x1) * np.sin(x2) + 0.95]


def ackley(*x: Array) -> Outcome:
    columns = np.stack(x)
    ripple = np.exp(np.cos(2 * np.pi * columns).mean(0))
    value = 20 + np.e - 20 * np.exp(-0.2 * np.sqrt((columns**2).mean(0))) - ripple
    return value, [columns.sum(0), np.sqrt((columns**2).sum(0)) - 5]


def keane_bump(*x: Array) -> Outcome:
    """The pole at the origin, which is infeasible, is cut off."""
    columns = np.stack(x)
    squares = np.cos(columns) ** 2
    weights = np.arange(1, len(x) + 1)[:, None]
    norm = np.sqrt((weights * columns**2).sum(0)).clip(1e-3)
    value = -np.abs((squares**2).sum(0) - 2 * squares.prod(0)) / norm
    return value, [0.75 - columns.prod(0), columns.sum(0) - 7.5 * len(x)]


def three_bar_truss(area1: Array, area2: Array) -> Outcome:
    """Volume of bars 100 long under a load of 2; no bar's stress exceeds 2. The areas are at least 1e-5."""
    a1, a2 = area1.clip(1e-5), area2.clip(1e-5)
    determinant = SQRT2 * a1**2 + 2 * a1 * a2
    stresses = (SQRT2 * a1 + a2) / determinant, a2 / determinant, 1 / (a1 + SQRT2 * a2)
    return 100 * (2 * SQRT2 * a1 + a2), [2 * stress - 2 for stress in stresses]


def reinforced_concrete_beam(steel: Array, depth: Array, width: Array) -> Outcome:
    strength = 180 + 7.35 * steel**2 / width - steel * depth
    return 29.4 * steel + 0.6 * width * depth, [depth / width - 4, strength]


def compression_spring(wire: Array, coil: Array, turns: Array) -> Outcome:
    """Weight; limits on deflection, shear stress, surge frequency and outer diameter."""
    shear = (4 * coil**2 - wire * coil) / (12566 * wire**3 * (coil - wire)) + 1 / (5108 * wire**2)
    return (turns + 2) * coil * wire**2, [
        1 - coil**3 * turns / (71785 * wire**4), shear - 1, 1 - 140.45 * wire / (coil**2 * turns), (wire + coil) / 1.5 - 1]


def pressure_vessel(shell: Array, head: Array, radius: Array, length: Array) -> Outcome:
    """Cost with continuous thicknesses; the fourth constraint never binds, as `length` is at most 190."""
    cost = (0.6224 * shell * radius * length + 1.7781 * head * radius**2
            + 3.1661 * shell**2 * length + 19.84 * shell**2 * radius)
    volume = np.pi * radius**2 * (length + 4 / 3 * radius)
    return cost, [0.0193 * radius - shell, 0.00954 * radius - head, 1_296_000 - volume, length - 240]


def welded_beam(weld: Array, length: Array, depth: Array, thickness: Array) -> Outcome:
    """Cost under a load of 6000 at 14 from the weld; limits on shear, bending, geometry, buckling and deflection."""
    cost = 1.10471 * weld**2 * length + 0.04811 * depth * thickness * (14 + length)
    arm = np.sqrt(length**2 / 4 + (weld + depth) ** 2 / 4)
    inertia = 2 * 0.707 * weld * length * (length**2 / 12 + (weld + depth) ** 2 / 4)
    direct = 6000 / (SQRT2 * weld * length)
    torsion = 6000 * (14 + length / 2) * arm / inertia
    shear = np.sqrt(direct**2 + torsion**2 + length * direct * torsion / arm)
    buckling = 64746 * (1 - 0.0282346 * depth) * depth * thickness**3
    return cost, [shear - 13600, 504000 / (depth**2 * thickness) - 30000, weld - thickness, 6000 - buckling,
                  2.1952 / (depth**3 * thickness) - 0.25]


def speed_reducer(face: Array, module: Array, teeth: Array, l1: Array, l2: Array, d1: Array, d2: Array) -> Outcome:
    """Weight; nine of the usual eleven constraints, with a real number of teeth."""
    weight = (0.7854 * face * module**2 * (3.3333 * teeth**2 + 14.9334 * teeth - 43.0934)
              - 1.508 * face * (d1**2 + d2**2) + 7.4777 * (d1**3 + d2**3) + 0.7854 * (l1 * d1**2 + l2 * d2**2))
    pitch = module * teeth
    return weight, [
        27 / (face * module * pitch) - 1, 397.5 / (face * pitch**2) - 1,
        1.93 * l1**3 / (pitch * d1**4) - 1, 1.93 * l2**3 / (pitch * d2**4) - 1,
        np.sqrt((745 * l1 / pitch) ** 2 + 1.69e6) / (110 * d1**3) - 1,
        np.sqrt((745 * l2 / pitch) ** 2 + 157.5e6) / (85 * d2**3) - 1,
        pitch / 40 - 1, 5 * module / face - 1, face / (12 * module) - 1]


def heat_exchanger(*x: Array, factor: float) -> Outcome:
    """Total area of three exchangers; `factor` multiplies x4 in the fifth constraint: 1250 in [4]_, 125 as coded."""
    x1, x2, x3, x4, x5, x6, x7, x8 = x
    return x1 + x2 + x3, [
        0.0025 * (x4 + x6) - 1, 0.0025 * (x5 + x7 - x4) - 1, 0.01 * (x8 - x5) - 1,
        833.33252 * x4 + 100 * x1 - x1 * x6 - 83333.333, 1250 * x5 + x2 * (x4 - x7) - factor * x4,
        1_250_000 + x3 * (x5 - x8) - 2500 * x5]


def cantilever_beam(*x: Array, corrected: bool) -> Outcome:
    """Volume of five steps of length L = 100, the first at the wall, under P = 50000 at the tip.

    A step from (k-1)L to kL before the tip bends under a moment of at most PkL, a stress of 6PkL/bh², and adds
    ∫ Pz²/(EI) dz = PL³(k³-(k-1)³)/(3EI) to the deflection of the tip, with I = bh³/12. As coded, E is 2·107 in place of
    2·10⁷ and L stands for I, which makes the limit on deflection a constant that no beam satisfies.
    """
    width, height = np.stack(x[:5]), np.stack(x[5:])                # (5, n), from the wall to the tip
    load, step = 50_000.0, 100.0
    k = np.arange(5, 0, -1)[:, None]
    stress = 6 * load * k * step / (width * height**2)
    elasticity, inertia = (2e7, width * height**3 / 12) if corrected else (214.0, np.full_like(width, step))
    deflection = (load * step**3 * (k**3 - (k - 1) ** 3) / (3 * elasticity * inertia)).sum(0)
    return step * (width * height).sum(0), [*(stress - 14_000)[::-1], deflection - 2.7, *(height / width - 20)[::-1]]


def car_side_impact(x1: Array, x2: Array, x3: Array, x4: Array, x5: Array, x6: Array, x7: Array, x8: Array, x9: Array,
                    x10: Array, x11: Array) -> Outcome:
    """Weight; response surfaces of abdomen load, viscous criteria, rib deflections, pubic force and two velocities."""
    weight = 1.98 + 4.90 * x1 + 6.67 * x2 + 6.98 * x3 + 4.01 * x4 + 1.78 * x5 + 2.73 * x7
    load = 1.16 - 0.3717 * x2 * x4 - 0.00931 * x2 * x10 - 0.484 * x3 * x9 + 0.01343 * x6 * x10
    upper = (0.261 - 0.0159 * x1 * x2 - 0.188 * x1 * x8 - 0.019 * x2 * x7 + 0.0144 * x3 * x5 + 0.0008757 * x5 * x10
             + 0.08045 * x6 * x9 + 0.00139 * x8 * x11 + 0.00001575 * x10 * x11)
    middle = (0.214 + 0.00817 * x5 - 0.131 * x1 * x8 - 0.0704 * x1 * x9 + 0.03099 * x2 * x6 - 0.018 * x2 * x7
              + 0.0208 * x3 * x8 + 0.121 * x3 * x9 - 0.00364 * x5 * x6 + 0.0007715 * x5 * x10 - 0.0005354 * x6 * x10
              + 0.00121 * x8 * x11)
    lower = 0.74 - 0.061 * x2 - 0.163 * x3 * x8 + 0.001232 * x3 * x10 - 0.166 * x7 * x9 + 0.227 * x2**2
    upper_rib = 28.98 + 3.818 * x3 - 4.2 * x1 * x2 + 0.0207 * x5 * x10 + 6.63 * x6 * x9 - 7.7 * x7 * x8 + 0.32 * x9 * x10
    middle_rib = (33.86 + 2.95 * x3 + 0.1792 * x10 - 5.057 * x1 * x2 - 11 * x2 * x8 - 0.0215 * x5 * x10 - 9.98 * x7 * x8
                  + 22 * x8 * x9)
    lower_rib = 46.36 - 9.9 * x2 - 12.9 * x1 * x8 + 0.1107 * x3 * x10
    pubic = 4.72 - 0.5 * x4 - 0.19 * x2 * x3 - 0.0122 * x4 * x10 + 0.009325 * x6 * x10 + 0.000191 * x11**2
    pillar = 10.58 - 0.674 * x1 * x2 - 1.95 * x2 * x8 + 0.02054 * x3 * x10 - 0.0198 * x4 * x10 + 0.028 * x6 * x10
    door = 16.45 - 0.489 * x3 * x7 - 0.843 * x5 * x6 + 0.0432 * x9 * x10 - 0.0556 * x9 * x11 - 0.000786 * x11**2
    return weight, [load - 1, upper - 0.9, middle - 0.9, lower - 0.9, upper_rib - 32, middle_rib - 32, lower_rib - 32,
                    pubic - 4, pillar - 9.9, door - 15.7]
