import pytest

from prunesearch.cli.values import written_out

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
