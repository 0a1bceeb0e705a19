import pytest

from prunesearch.cli.values import parse_loads, written_out
from prunesearch.core.errors import PruneSearchError

FLAGS = {"--model", "--batch-size"}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--batch-size", "1", "8"], ["--batch-size", "1", "--batch-size", "8"]),
        (["--batch-size", "1", "8", "--quick"], ["--batch-size", "1", "--batch-size", "8", "--quick"]),
        (["--model", "a", "b", "--batch-size", "2"], ["--model", "a", "--model", "b", "--batch-size", "2"]),
        (["--name", "x", "y"], ["--name", "x", "y"]),
        (["--batch-size", "1", "--name", "x"], ["--batch-size", "1", "--name", "x"]),
        (["--batch-size=1", "8"], ["--batch-size=1", "8"]),
        ([], []),
    ],
)
def test_values_in_a_row_are_written_out(args, expected):
    assert list(written_out(args, FLAGS)) == expected


def loads(*rows):
    return {"loads": [{"batch_size": b, "length": n, "weight": pytest.approx(w)} for b, n, w in rows]}


@pytest.mark.parametrize(
    ("batch_sizes", "lengths", "expected"),
    [
        (None, None, {}),
        (["8"], None, {"batch_size": 8}),
        (["8"], ["64"], {"batch_size": 8, "length": 64}),
        (["1", "8"], None, loads((1, None, 1), (8, None, 1))),
        (["1:0.7", "8:0.3"], None, loads((1, None, 0.7), (8, None, 0.3))),
        (["8"], ["buckets"], {"batch_size": 8, "length_buckets": True}),
        (None, ["buckets"], {"length_buckets": True}),
        (["8"], ["32", "128"], loads((8, 32, 1), (8, 128, 1))),
        (["1:2", "8:1"], ["32:3", "64:1"], loads((1, 32, 6), (1, 64, 2), (8, 32, 3), (8, 64, 1))),
    ],
)
def test_loads_of_a_run(batch_sizes, lengths, expected):
    assert parse_loads(batch_sizes, lengths) == expected


@pytest.mark.parametrize(
    ("batch_sizes", "lengths", "words"),
    [
        (["many"], None, "--batch-size takes whole numbers, or 1:0.7 with a weight, but got 'many'"),
        (["8:"], None, "got '8:'"),
        (["1", "8:0.5"], None, "all values have a weight, or none has, but got 1 8:0.5"),
        (None, ["32", "64"], "several --length need a --batch-size"),
        (["8"], ["buckets", "64"], "--length buckets stands alone, beside one --batch-size"),
        (["1", "8"], ["buckets"], "--length buckets stands alone, beside one --batch-size"),
    ],
)
def test_loads_that_cannot_be_are_one_line(batch_sizes, lengths, words):
    with pytest.raises(PruneSearchError) as error:
        parse_loads(batch_sizes, lengths)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
