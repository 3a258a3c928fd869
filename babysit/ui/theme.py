"""Colours and lines of the chart, safe for colour-blind readers (Okabe & Ito 2008) and distinct in style too.

The chart is drawn on white paper. On a dark page the style sheet inverts lightness and keeps
hues, so no second picture is needed when the theme changes.
"""

INK, FAINT, GRID, AXIS = "#424242", "#6b6b6b", "#ececec", "#bdbdbd"
TRAIN, VALID, OTHER = "#0072b2", "#c25100", "#007f5f"
USER, GHOST, ALARM = "#7b1fa2", "#757575", "#b00020"
RUNS = (TRAIN, VALID, OTHER, "#a3437b", INK, "#8a6d00")  # of several runs, each with a colour of its own
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.5))
