"""Batches of like lengths: each epoch holds every series once, and padding is bounded."""

import itertools

import numpy as np
import pytest

from nde.data import BatchesByLength, row_counts, RowsByLength

LENGTHS = np.random.default_rng(0).integers(3, 61, 500)


@pytest.mark.parametrize("most", [1.05, 1.2, 2.0])
def test_numbers_of_rows_are_the_fewest_that_bound_the_padding(most):
    counts = row_counts(LENGTHS, most=most)
    padded = counts[np.searchsorted(counts, LENGTHS)].sum()
    assert padded <= most * LENGTHS.sum()
    assert counts[-1] == LENGTHS.max()
    assert len(row_counts(LENGTHS, most=1.001 * padded / LENGTHS.sum())) <= len(counts)


def test_numbers_of_rows_are_the_best_of_all_ways_to_cut():
    lengths = np.array([1, 1, 2, 5, 6, 6, 9, 20])
    most = 1.25
    counts = row_counts(lengths, most=most)

    def rows(ends):
        ends = np.array(ends)
        return ends[np.searchsorted(ends, lengths)].sum()

    others = sorted(set(lengths.tolist()) - {20})
    every = [rows((*some, 20)) for some in itertools.combinations(others, len(counts) - 1)]
    assert rows(counts) == min(every)
    fewer = [rows((*some, 20)) for some in itertools.combinations(others, len(counts) - 2)]
    assert min(fewer) > most * lengths.sum()


def test_more_lengths_than_candidates_are_cut_at_their_quantiles():
    lengths = np.random.default_rng(1).integers(1, 5000, 3000)
    counts = row_counts(lengths)
    assert counts[-1] == lengths.max()
    assert counts[np.searchsorted(counts, lengths)].sum() <= 1.2 * lengths.sum()


def test_one_series_that_is_longer_than_all_others_together_ends_the_search_too():
    lengths = np.concatenate([np.arange(1, 300).repeat(300), [10**6]])
    counts = row_counts(lengths)
    assert counts[-1] == 10**6 and counts[-2] == 299
    assert counts[np.searchsorted(counts, lengths)].sum() <= 1.2 * lengths.sum()
    with pytest.raises(ValueError, match=r"row_counts needs most > 1, but got 1\.0"):
        row_counts(lengths, most=1.0)


def test_each_epoch_holds_every_series_once_in_an_order_that_the_seed_and_step_alone_decide():
    counts = row_counts(LENGTHS)
    groups = np.searchsorted(counts, LENGTHS)
    batches = BatchesByLength(groups, 16, 200, seed=3)
    per_epoch = -(-500 // 16)
    for epoch in range(3):
        seen = np.concatenate([batches[epoch * per_epoch + i] for i in range(per_epoch)])
        np.testing.assert_array_equal(np.sort(seen), np.arange(500))
    again = BatchesByLength(groups, 16, 200, seed=3)
    for step in (70, 3, 140):  # as after a resume, in any order
        np.testing.assert_array_equal(again[step], batches[step])
    assert not np.array_equal(batches[0], batches[per_epoch])
    assert not np.array_equal(batches[0], BatchesByLength(groups, 16, 200, seed=4)[0])
    with pytest.raises(IndexError):
        batches[200]


def test_a_batch_takes_the_rows_of_its_longest_series():
    counts = row_counts(LENGTHS)
    values = np.arange(500 * 60 * 2, dtype=float).reshape(500, 60, 2)
    rows = RowsByLength(values, LENGTHS, counts)
    batches = BatchesByLength(np.searchsorted(counts, LENGTHS), 16, 32, seed=0)
    taken = [rows[batches[i]] for i in range(32)]
    assert {x.shape[1] for x in taken} == set(counts.tolist())
    assert sum(x.shape[0] * x.shape[1] for x in taken) <= 1.25 * LENGTHS.sum()  # leftovers ride with longer ones
    np.testing.assert_array_equal(taken[5], values[batches[5], : taken[5].shape[1]])
    assert all(LENGTHS[batches[i]].max() <= x.shape[1] for i, x in enumerate(taken))
