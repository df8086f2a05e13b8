"""The order of requests, and their groups."""

from redi.evaluation.generation.requests import Prompt, group_by_prompt, make_requests


def test_samples_are_laid_out_so_that_a_larger_n_only_appends():
    a, b = (Prompt("small", name, "", (), 8, name) for name in "ab")
    requests = make_requests([a, b], 2)
    assert requests == [(a, 0), (b, 0), (a, 1), (b, 1)]
    assert make_requests([a, b], 3)[:4] == make_requests([a, b], 2)
    assert group_by_prompt([requests[0], requests[1], requests[3]]) == [[(a, 0)], [(b, 0), (b, 1)]]
