"""Drawing: areas, edges, windows at the border, chunks."""

import numpy as np
import pytest

from cmmd_lightning.procedural import raster

WHITE = np.full(3, 255.0, dtype=np.float32)


def blank(frames=1, height=40, width=40):
    return np.zeros((frames, height, width, 3), dtype=np.float32)


def one(value):
    return np.array([value], dtype=float)


AREAS = {
    "disc": np.pi,
    "square": 4 * 0.88**2,
    "triangle": 3 * 3**0.5 * 0.66**2,
    "hexagon": 2 * 3**0.5 * 0.94**2,
    "diamond": 2 * 1.15**2,
}


@pytest.mark.parametrize("outline", sorted(raster.OUTLINES))
@pytest.mark.parametrize(("x", "y"), [(20.0, 20.0), (19.3, 21.7)])
def test_area_of_shapes(outline, x, y):
    """The covered area is that of geometry, wherever the centre falls among the pixels: edges are anti-aliased."""
    canvas, radius = blank(), one(10.0)
    shape = raster.OUTLINES[outline]
    raster.paint(canvas, one(x), one(y), (14, 14), raster.ellipse(radius, radius, shape.distance), WHITE)
    assert canvas[..., 0].sum() / 255 == pytest.approx(AREAS[outline] * 100, rel=0.02)


@pytest.mark.parametrize("outline", sorted(raster.OUTLINES))
def test_foot_and_reach_of_shapes(outline):
    shape = raster.OUTLINES[outline]
    x, y = np.meshgrid(np.linspace(-2, 2, 801, dtype=np.float32), np.linspace(-2, 2, 801, dtype=np.float32))
    inside = shape.distance(x, y) <= 0
    assert y[inside].max() == pytest.approx(shape.foot, abs=0.006)
    assert np.hypot(x, y)[inside].max() <= shape.reach


def test_capsule_area_and_position():
    canvas = blank()
    raster.paint(canvas, one(20.0), one(15.0), (11, 4), raster.capsule(one(8.0), one(0.0), 3.0), WHITE)
    covered = canvas[0, ..., 0] / 255
    assert covered.sum() == pytest.approx(16 * 6 + np.pi * 9, rel=0.02)
    rows, columns = np.mgrid[:40, :40] + 0.5
    assert (covered * rows).sum() / covered.sum() == pytest.approx(15.0)
    assert (covered * columns).sum() / covered.sum() == pytest.approx(20.0)


@pytest.mark.parametrize(("x", "y"), [(0.0, 20.0), (40.0, 40.0), (20.0, -3.0), (-200.0, 300.0)])
def test_shapes_at_and_beyond_the_border(x, y):
    small, large = blank(), blank(height=1000, width=1000)
    for canvas, shift in ((small, 0.0), (large, 480.0)):
        disc = raster.ellipse(one(9.0), one(9.0))
        raster.paint(canvas, one(x + shift), one(y + shift), (9, 9), disc, WHITE)
    np.testing.assert_allclose(small[0], large[0, 480:520, 480:520], atol=1e-2)


def test_opacity_by_frame():
    canvas = blank(frames=3)
    centers, disc = np.full(3, 20.0), raster.ellipse(np.full(3, 9.0), np.full(3, 9.0))
    raster.paint(canvas, centers, centers, (9, 9), disc, WHITE, np.array([0.0, 0.5, 1.0]))
    assert canvas[:, 20, 20, 0] == pytest.approx([0, 127.5, 255])


def test_hsv():
    np.testing.assert_allclose(raster.hsv(1 / 3, 1.0, 0.5), [0, 127.5, 0], atol=1e-4)
    np.testing.assert_allclose(raster.hsv(1.25, 0.5, 1.0), raster.hsv(0.25, 0.5, 1.0), atol=1e-4)


def test_chunks_make_no_difference(monkeypatch):
    image = raster.backdrop(np.random.default_rng(0), 16, 24, 0.8).image

    def draw(canvas, times):
        disc = raster.ellipse(np.full(len(times), 3.0), np.full(len(times), 3.0))
        raster.paint(canvas, 5 + times, 8 + 0 * times, (3, 3), disc, WHITE)

    whole = raster.draw_frames(image, np.arange(10.0), draw)
    monkeypatch.setattr(raster, "MAX_CANVAS_VALUES", 3 * image.size)
    np.testing.assert_array_equal(raster.draw_frames(image, np.arange(10.0), draw), whole)
    assert whole.shape == (10, 3, 16, 24)


def test_backdrop_is_the_same_composition_at_any_size():
    small, large = (raster.backdrop(np.random.default_rng(3), size, size, 0.75).image for size in (16, 64))
    shrunk = large.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - shrunk).mean() < 3
