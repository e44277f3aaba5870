"""Reading a trace: whose header it is, whatever it calls its columns, and what is wrong with a bad one."""

import pytest

from countwerk_meter.cli.replay.trace import TraceError, read_trace


@pytest.fixture
def trace(tmp_path):
    def write(text, **options):
        path = tmp_path / "trace.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_trace(path, **{"accounts": 3, **options})

    return write


def test_the_azure_traces_are_read(trace):
    """Their own header, seven digits of a second, and seconds since the first call."""
    rows = trace(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
    )
    assert [(0.0, 374, 44), (4.314579, 396, 109)] == [
        (round(row.at, 6), row.input_tokens, row.output_tokens) for row in rows
    ]


@pytest.mark.parametrize(
    "header",
    [
        "timestamp,input_tokens,output_tokens",
        "Time,Prompt Tokens,Completion Tokens",
        " TIMESTAMP , prompt_tokens , completion-tokens ",
        "created_at,llm_input_tokens,llm_output_tokens",
        "\ufefftimestamp,inputTokens,outputTokens",
    ],
)
def test_headers_are_recognised_however_they_are_written(trace, header):
    """Case, spaces, underscores and a byte order mark do not matter."""
    (row,) = trace(f"{header}\n1700000000.5,7,8.0\n")
    assert (0.0, 7, 8) == (row.at, row.input_tokens, row.output_tokens)


def test_accounts_models_and_operations_are_taken_if_they_are_there(trace):
    """And where they are not, the accounts take turns: the same in every replay."""
    rows = trace(
        "input_tokens,output_tokens,user_id,model,operation\n1,2,ada,gpt-5,app.chat\n3,4,,,\n5,6,bob,,\n", model="other"
    )
    assert [("ada", "gpt-5", "app.chat"), ("replay-2", "other", "replay.call"), ("bob", "other", "replay.call")] == [
        (row.account_id, row.model, row.operation) for row in rows
    ]
    dealt = trace("input_tokens,output_tokens\n" + "1,1\n" * 5)
    assert ["replay-1", "replay-2", "replay-3", "replay-1", "replay-2"] == [row.account_id for row in dealt]
    assert [None] * 5 == [row.at for row in dealt]


def test_rows_are_played_in_order_of_time(trace):
    """Whatever their order in the file; empty lines are no rows."""
    rows = trace("time,input,output\n30,3,0\n\n10,1,0\n20,2,0\n")
    assert [(0.0, 1), (10.0, 2), (20.0, 3)] == [(row.at, row.input_tokens) for row in rows]


def test_a_limit_takes_the_first_rows(trace):
    """So that a first try is quick."""
    assert 2 == len(trace("input,output\n1,1\n2,2\n3,3\n", limit=2))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "is empty"),
        ("input,output\n", "has no rows"),
        ("a,b\n1,2\n", "row 1: no column input_tokens (or contexttokens, inputtokens, prompttokens) in: a, b"),
        ("input,time\n1,2\n", "row 1: no column output_tokens"),
        ("input,prompt_tokens,output\n1,2,3\n", "row 1: both input and prompt_tokens would be its input"),
        ("input,output\n1,2\n3\n", "row 3: has 1 columns, and the header has 2"),
        ("input,output\n1,2\n-3,4\n", "row 3, column input: '-3' is no whole number of tokens"),
        ("input,output\n1,2.5\n", "row 2, column output: '2.5' is no whole number of tokens"),
        ("input,output\n1,\n", "row 2, column output: '' is no whole number of tokens"),
        ("input,output\n1,nan\n", "row 2, column output: 'nan' is no whole number of tokens"),
        ("time,input,output\n1,1,1\nyesterday,1,1\n", "row 3, column time: 'yesterday' is no time"),
        ("input,output,operation\n1,1,No Operation\n", "row 2, column operation: operation must be 3 to 64"),
        ('input,output\n"1,2\n', "row 2: "),
        (b"input,output\n\xff,2\n", "is not UTF-8"),
    ],
)
def test_a_bad_trace_names_the_row_and_the_column(trace, text, wrong):
    """And none of it is skipped: a replay that loses rows shows too low a price."""
    with pytest.raises(TraceError) as caught:
        trace(text)
    assert wrong in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    """One line, with its name."""
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "none.csv", accounts=1)
