from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from napari_attention3d.correction.features import scan_features
from napari_attention3d.correction.smooth import random_walk, scan_edges

NOTHING = np.empty((0, 3), np.intp), np.empty(0, np.intp)


def edges_of(image, spacing=(1, 1, 1)):
    *_, features = scan_features(image, spacing)
    return scan_edges(features)


def direct(prior, edges, gamma, voxels, values):
    """Solve the same equations with a sparse factorisation."""
    shape = prior.shape[1:]
    number = np.arange(prior[0].size).reshape(shape)
    rows, columns, weights = [], [], []
    for axis, weight in enumerate(edges):
        low = np.take(number, range(shape[axis] - 1), axis).ravel()
        high = np.take(number, range(1, shape[axis]), axis).ravel()
        rows, columns = [*rows, low, high], [*columns, high, low]
        weights = [*weights, weight.numpy().ravel(), weight.numpy().ravel()]
    w = scipy.sparse.coo_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    ).tocsr()
    system = scipy.sparse.diags(np.asarray(w.sum(1)).ravel() + gamma) - w
    fixed = np.zeros(prior[0].size, bool)
    fixed[number[tuple(voxels.T)]] = True
    out = np.empty_like(prior)
    for k in range(len(prior)):
        x = np.zeros(prior[0].size)
        x[number[tuple(voxels.T)]] = values == k
        right = gamma * prior[k].ravel() - system @ x
        x[~fixed] = scipy.sparse.linalg.spsolve(system[~fixed][:, ~fixed].tocsc(), right[~fixed])
        out[k] = x.reshape(shape)
    return out


def test_it_solves_the_equations():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 7))
    edges, gamma = edges_of(image)
    first = rng.random((1, 5, 6, 7)).astype(np.float32)
    prior = np.concatenate((first, 1 - first))
    voxels, values = np.array([[0, 0, 0], [4, 5, 6], [2, 2, 2]]), np.array([0, 1, 1])
    found = random_walk(prior, edges, gamma, voxels, values, iterations=200)
    np.testing.assert_allclose(found, direct(prior, edges, gamma, voxels, values), atol=2e-3)
    np.testing.assert_allclose(found.sum(0), 1, atol=5e-3)


def test_painted_voxels_are_certain_and_the_input_stays():
    image = np.random.default_rng(1).normal(size=(4, 6, 6))
    prior = np.full((2, 4, 6, 6), 0.5, np.float32)
    edges, gamma = edges_of(image)
    found = random_walk(prior, edges, gamma, np.array([[1, 2, 3]]), np.array([1]))
    assert found[:, 1, 2, 3].tolist() == [0, 1]
    assert found[1, 1, 2, 4] > 0.5
    assert (prior == 0.5).all()


def test_noise_goes_and_borders_stay():
    rng = np.random.default_rng(2)
    truth = np.zeros((10, 16, 16), int)
    truth[:, :, 8:] = 1
    image = 4.0 * truth + rng.normal(0, 0.3, truth.shape)
    share = np.clip(0.25 + 0.5 * truth + rng.normal(0, 0.3, truth.shape), 0, 1)
    prior = np.stack((1 - share, share)).astype(np.float32)
    edges, gamma = edges_of(image)
    before = (prior.argmax(0) == truth).mean()
    after = (random_walk(prior, edges, gamma, *NOTHING).argmax(0) == truth).mean()
    assert before < 0.9
    assert after > 0.99


def test_a_noisy_scan_is_smoothed_more():
    z, y, x = np.indices((10, 12, 12))
    calm = np.sin(z / 3) + np.sin(y / 3) + np.sin(x / 3)
    noisy = calm + np.random.default_rng(0).normal(0, 2, calm.shape)
    assert edges_of(noisy)[1] < edges_of(calm)[1]
