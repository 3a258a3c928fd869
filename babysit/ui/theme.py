"""Colours and lines of the chart, safe for colour-blind readers (Okabe & Ito 2008) and distinct in style too.

The chart is drawn on white paper. On a dark page the style sheet inverts lightness and keeps
hues, so no second picture is needed when the theme changes.
"""

from typing import Any

PAPER, INK, FAINT, GRID, AXIS = "#ffffff", "#424242", "#6b6b6b", "#ececec", "#bdbdbd"
TRAIN, VALID, OTHER = "#0072b2", "#c25100", "#007f5f"
USER, GHOST, ALARM = "#7b1fa2", "#757575", "#b00020"


def line(role: str) -> dict[str, Any]:
    """How a curve of a role is drawn."""
    return {
        "train": {"color": TRAIN, "linewidth": 1.8},
        "running": {"color": TRAIN, "linewidth": 0.9, "alpha": 0.45},
        "valid": {"color": VALID, "linewidth": 1.5, "linestyle": (0, (4, 2)), "marker": "o", "markersize": 3},
        "other": {"color": OTHER, "linewidth": 1.4, "linestyle": (0, (6, 2, 1, 2))},
        "other valid": {"color": OTHER, "linewidth": 1.4, "linestyle": (0, (1, 1.5))},
        "hyperparameter": {"color": INK, "linewidth": 1.5, "drawstyle": "steps-post"},
    }[role]
