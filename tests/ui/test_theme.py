import itertools
import re
from importlib import resources

import numpy as np
import pytest

from babysit.ui import theme

PAPER = np.ones(3)
WORDS = ("INK", "FAINT", "TRAIN", "VALID", "OTHER", "USER", "GHOST", "ALARM")
CURVES = ("TRAIN", "VALID", "OTHER")
STYLE = resources.files("babysit.ui").joinpath("style.css").read_text()
GREY = np.tile([0.213, 0.715, 0.072], (3, 1))
# Machado, Oliveira & Fernandes 2009, table 1, severity 1: protanopia, deuteranopia, tritanopia; linear RGB.
BLIND = [
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
]


def rgb(name):
    colour = getattr(theme, name)
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def turned(colour):
    """A colour as the style sheet's filter shows it on a dark page (CSS Filter Effects 1, sections 5 and 12)."""
    inverted, degrees = re.search(r"--babysit-inverted: invert\(([\d.]+)\) hue-rotate\((\d+)deg\)", STYLE).groups()
    colour = (1 - float(inverted)) * colour + float(inverted) * (1 - colour)
    cos, sin = np.cos(np.radians(float(degrees))), np.sin(np.radians(float(degrees)))
    around = [[-0.213, -0.715, 0.928], [0.143, 0.14, -0.283], [-0.787, 0.715, 0.072]]
    return ((GREY + cos * (np.eye(3) - GREY) + sin * np.array(around)) @ colour).clip(0, 1)


def linear(colour):
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.2."""
    dark, light = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(light):
    """CIE L*a*b* of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ light.clip(0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("shown", [lambda colour: colour, turned], ids=["light", "dark"])
def test_words_stand_out_from_the_paper_and_curves_from_one_another_for_every_eye(shown):
    paper = shown(PAPER)
    for name in WORDS:
        assert contrast(shown(rgb(name)), paper) >= 4.5, name  # level AA
    for eye in [np.eye(3), *map(np.array, BLIND)]:
        seen = [lab(eye @ linear(shown(rgb(name)))) for name in CURVES]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 8  # 2.3 are just noticed


def test_on_a_dark_page_the_paper_is_jupyterlabs():
    np.testing.assert_array_equal(np.round(turned(PAPER) * 255), [0x11] * 3)
